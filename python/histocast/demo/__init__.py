"""A small archive of synthetic slides whose expression follows their morphology.

recipes     what each slide is made of
terrain     which compartment lies where (the hidden latents)
nuclei paint pyramid    the slide as a scanner would have written it
expression  the hidden truth, and counts drawn around it
archive     the folders `make_archive` and `make_training_set` leave
score       predictions against truth
"""

from histocast.demo.archive import make_archive, make_training_set
from histocast.demo.score import DemoScore, score_demo

__all__ = ["DemoScore", "make_archive", "make_training_set", "score_demo"]
