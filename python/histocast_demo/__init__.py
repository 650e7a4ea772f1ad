"""A small archive of synthetic slides whose expression follows their morphology; no part of the wheel.

terrain     what each slide is made of, and which compartment lies where (the hidden latents)
paint       the slide as a scanner would have written it
expression  the hidden truth, and counts drawn around it
archive     the folders `make_archive` and `make_training_set` leave
score       predictions against truth
"""
