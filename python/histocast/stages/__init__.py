"""One file per stage: its name is the process and the verb; its class is a record of all the stage is given.

Each reads the artifacts of the stage before it and writes its own into ``outdir``; `predict_slide` runs those of the
predict workflow for one slide. A stage is imported from its file, so that a verb loads what it needs and no more.
"""
