"""Published data sets as they are downloaded, and the training sheet of each.

her2st    github.com/almaan/her2st, or its Zenodo archives unpacked side by side
cscc      GSE144240 (or GSE144239): the files of one GEO archive
stnet     Mendeley Data 29ntw7sh4r
hest1k    huggingface.co/datasets/MahmoodLab/hest: st/, wsis/ and the metadata table
visium    a folder of Space Ranger runs, one folder per sample
"""

from __future__ import annotations

from histocast.sections.layouts.make_sheet import LAYOUTS, make_training_sheet
from histocast.sections.layouts.published_section import PublishedSection, SheetOptions

__all__ = ["LAYOUTS", "PublishedSection", "SheetOptions", "make_training_sheet"]
