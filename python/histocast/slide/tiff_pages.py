"""Which of a TIFF's pages are the slide and its lower levels: never the label or macro, never one of several slides."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tifffile

from histocast.errors import DataError
from histocast.slide.colour import GREY, YCBCR, Colour, StatedSamples, decide_colour, not_brightfield
from histocast.slide.ome import NotOme, OmeImage, parse_ome
from histocast.slide.reader import CannotOpen
from histocast.slide.resolution import Resolution, imagej_resolution, tag_resolution, tag_unit

Page = tifffile.TiffPage

_MAX_PAGES = 1000
# OpenSlide and libtiff reserve a tile's pixels before they look at its data, and end the process where they cannot.
_MAX_TILE_SIDE_PX = 1 << 16
_MAX_TILE_PX = 1 << 28
# A page of more than this share of the slide's pixels that is no level of it is another slide, or another plane.
_AS_LARGE = 0.25
_REDUCED, _MACRO = 1, 8
# JPEG and WebP become RGB where they are decoded; of JPEG 2000, the codestream states the subsampling.
_DECODERS_OF_YCBCR = (7, 50001)
# Types of a tag of which a value is two numbers.
_FRACTIONS = (5, 10)
_JPEG2000 = (33003, 33005, 34712)
_APERIO_YCBCR_JPEG2000 = 33003
_IMAGEJ_IMAGES = re.compile(r"^images=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class SlidePages:
    """The pages of the slide."""

    slide: tuple[Page, ...]
    """Level 0: one page, or three that hold red, green and blue."""
    levels: tuple[tuple[Page, ...], ...]
    """Lower levels, finest first."""
    ome: OmeImage | None = None
    """What OME-XML says of the slide."""
    ome_fault: str | None = None
    """Why its OME-XML says nothing."""


def choose_pages(file: tifffile.TiffFile, *, where: str) -> SlidePages:
    """Return the largest image and its lower levels.

    Raises `CannotOpen`: the format lays its blocks out in a way of its own; `DataError`: sizes are absurd or contradict
    each other, or several images are as large as the slide.
    """
    pages = read_pages(file, where=where)
    if has_own_layout(file):
        raise CannotOpen("its blocks are not laid out plainly")
    images, ome_fault = _ome_images(pages[0])
    if images:
        slide, candidates, ome = _ome_pages(pages, images, where)
        earlier = []
    else:
        slide, ome = (max(pages, key=_area_px),), None
        # A level follows its slide; what comes before, and is not called a level, is an overview of its own.
        first = pages.index(slide[0])
        candidates = [(page,) for page in pages if page is not slide[0]]
        earlier = [(page,) for page in pages[:first] if not page.subfiletype & _REDUCED]
        _refuse_hidden_planes(pages[0], where)
    subordinate = list(zip(*map(_sub_pages, slide), strict=False))
    levels: list[tuple[Page, ...]] = []
    for level in sorted([*candidates, *subordinate], key=lambda level: -level[0].imagewidth):
        if level not in earlier and _is_level(level[0], slide[0], levels[-1][0] if levels else slide[0]):
            levels.append(level)
        else:
            _check_other(level[0], slide[0], claims_to_be_level=level in subordinate, file=file, where=where)
    return SlidePages(slide, tuple(levels), ome, ome_fault)


def has_own_layout(file: tifffile.TiffFile) -> bool:
    """Whether it is of a scanner whose blocks overlap, are padded or come in an order of their own."""
    known = file.is_ndpi or file.is_philips or file.is_scn or file.is_bif
    return bool(known or str(file.pages.first.software).startswith("MedScan"))


def read_pages(file: tifffile.TiffFile, *, where: str) -> list[Page]:
    """Return all pages of the file.

    Raises `DataError`: there are too many, or a tile is larger than memory.
    """
    count = len(file.pages)
    if count > _MAX_PAGES:
        raise DataError(f"a TIFF of {count} pages", expected="one slide with its levels", where=where, advice=_ONE)
    pages = [page for page in (file.pages[index] for index in range(count)) if isinstance(page, Page)]
    for page in itertools.chain(pages, *map(_sub_pages, pages)):
        width, height = page.tilewidth, page.tilelength
        if page.is_tiled and (max(width, height) > _MAX_TILE_SIDE_PX or width * height > _MAX_TILE_PX):
            raise DataError(
                f"a directory that states tiles of {width} x {height} px",
                expected=f"tiles of at most {_MAX_TILE_SIDE_PX} px along a side, as a reader can hold",
                where=where,
                advice="the directory is damaged: copy the slide again",
            )
    return pages


def page_colour(page: Page, *, where: str) -> Colour:
    """Return how the samples of a page become RGB; raises as `decide_colour` does."""
    return decide_colour(page_samples(page), decoder_converts=int(page.compression) in _DECODERS_OF_YCBCR, where=where)


def page_samples(page: Page) -> StatedSamples:
    """Return what a page states of its samples."""
    bits, sample_format = (max(value) if isinstance(value, tuple) else int(value) for value in _depths(page))
    compression = int(page.compression)
    stated: dict[str, Any] = {}
    if reference := _numbers(page, 532):
        stated["reference_black_white"] = reference
    if coefficients := _numbers(page, 529):
        stated["ycbcr_coefficients"] = coefficients
    return StatedSamples(
        photometric=YCBCR if compression == _APERIO_YCBCR_JPEG2000 else int(page.photometric),
        count=int(page.samplesperpixel),
        bits=int(bits),
        sample_format=int(sample_format),
        extra=tuple(int(value) for value in page.extrasamples or ()),
        separate=page.planarconfig == 2 and page.samplesperpixel > 1,
        palette=page.colormap if page.colormap is not None else None,
        subsampling=(1, 1) if compression in _JPEG2000 else page.subsampling or (1, 1),
        **stated,
    )


def page_tag_resolution(page: Page, *, place: str = "its TIFF tags") -> Resolution:
    """Return what the tags of a page state as pixels per inch or centimetre."""
    across, down, unit = ((*_numbers(page, code), None)[0] for code in (282, 283, 296))
    if page.is_imagej and tag_unit(unit) is None:
        return imagej_resolution(page.description, across, down)
    return tag_resolution(across, down, tag_unit(unit), place=place)


_ONE = "export one image of the slide, in one focal plane, as one file"


def _ome_images(page: Page) -> tuple[list[OmeImage], str | None]:
    """Return the images that OME-XML describes, and why there are none where it cannot be parsed."""
    if not page.is_ome:
        return [], None
    try:
        return parse_ome(page.description), None
    except NotOme as fault:
        return [], str(fault)


def _ome_pages(
    pages: Sequence[Page], images: Sequence[OmeImage], where: str
) -> tuple[tuple[Page, ...], list[tuple[Page, ...]], OmeImage]:
    """Return the pages of the largest image, those that no image claims, and the image."""
    ome = max(images, key=lambda image: image.area_px)
    for other in images:
        same_pixel = bool(ome.physical) and other.physical == ome.physical and not other.is_beside_the_slide
        if other is not ome and (other.area_px >= _AS_LARGE * ome.area_px or same_pixel):
            raise _several(
                f"{len(images)} images, of which two are scenes of one scan or as large as each other", where
            )
    depth, times = ome.size.get("Z", 1), ome.size.get("T", 1)
    if depth > 1 or times > 1:
        raise _several(f"{depth} focal planes and {times} points in time", where)
    if len(ome.files) > 1:
        raise _several(f"an OME image in {len(ome.files)} files", where)
    directories = [number for number in ome.directories() if 0 <= number < len(pages)]
    if not directories:
        raise DataError("its OME-XML names pages that are not there", where=where, advice="copy the slide again")
    claimed = {number for image in images for number in image.directories()}
    unclaimed: list[tuple[Page, ...]] = [(page,) for number, page in enumerate(pages) if number not in claimed]
    return _joined_channels([pages[number] for number in directories], ome, where), unclaimed, ome


def _joined_channels(pages: Sequence[Page], ome: OmeImage, where: str) -> tuple[Page, ...]:
    """Return the one page of an RGB image, or three that hold red, green and blue."""
    if len(pages) == 1 and pages[0].samplesperpixel > 1:
        return tuple(pages)
    channels = max(len(pages), ome.size.get("C", 1))
    stated = [page_samples(page) for page in pages]
    if not all((one.photometric, one.count, one.sample_format) == (GREY, 1, 1) for one in stated):
        raise _several(f"an OME image of {channels} channels in {len(pages)} pages", where)
    if not (len(pages) == 3 == channels and _are_red_green_blue(ome.channels)):
        named = ", each with a name of its own" if any(ome.channels) else ""
        found = "one channel" if channels == 1 else f"{channels} channels"
        raise not_brightfield(f"{found} of {stated[0].bits} bits{named}, where RGB has red, green and blue", where)
    decide_colour(
        StatedSamples(photometric=2, count=3, bits=stated[0].bits, separate=True), decoder_converts=False, where=where
    )
    if len({(page.imagewidth, page.imagelength, page.compression, page.is_tiled) for page in pages}) > 1:
        raise DataError("the pages of its three channels differ", where=where, advice="copy the slide again")
    return tuple(pages)


def _are_red_green_blue(names: Sequence[str]) -> bool:
    """Whether three channels are the colours of a picture: so called, or not called anything.

    Channels of fluorescence are called by their stain.
    """
    words = [name.strip().lower() for name in names]
    counted = [f"channel {number}" for number in range(3)], [f"channel:0:{number}" for number in range(3)]
    plain = [["red", "green", "blue"], ["r", "g", "b"], ["", "", ""], *counted]
    return not words or words in plain


def _sub_pages(page: Page) -> list[Page]:
    return [sub for sub in (page.pages or ()) if isinstance(sub, Page)] if page.subifds else []


def _area_px(page: Page) -> int:
    return int(page.imagewidth * page.imagelength)


def _size_px(page: Page) -> tuple[int, int]:
    return page.imagewidth, page.imagelength


def _is_level(page: Page, slide: Page, last: Page) -> bool:
    # A level shows the whole of level 0: its sides have the same ratio but for a dropped row or column, and
    # the label or macro of a slide, tiled or not, does not have it by chance.
    if page.is_tiled != slide.is_tiled:
        return False
    if not (0 < page.imagewidth < last.imagewidth and 0 < page.imagelength < last.imagelength):
        return False
    scale = slide.imagewidth / page.imagewidth
    return bool(abs(slide.imagelength - page.imagelength * scale) <= 2 * scale)


def _check_other(page: Page, slide: Page, *, claims_to_be_level: bool, file: tifffile.TiffFile, where: str) -> None:
    """Refuse a page that is as large as the slide, or that is called a level of it and has another shape."""
    reduced = bool(page.subfiletype & _REDUCED) and not page.subfiletype & _MACRO
    is_level = claims_to_be_level or (page.is_tiled and slide.is_tiled and (reduced or file.is_svs))
    if is_level and page.is_tiled == slide.is_tiled and _size_px(page) != _size_px(slide):
        raise DataError(
            f"level 0 of {slide.imagewidth} x {slide.imagelength} px "
            f"and another of {page.imagewidth} x {page.imagelength} px",
            expected="levels of one shape",
            where=where,
            advice="a directory is damaged: copy the slide again",
        )
    # Of an Aperio file, what is not tiled is thumbnail, label or macro.
    if _area_px(page) >= _AS_LARGE * _area_px(slide) and (page.is_tiled or not file.is_svs):
        raise _several(
            f"pages of {slide.imagewidth} x {slide.imagelength} px and of {page.imagewidth} x {page.imagelength} px",
            where,
        )


def _refuse_hidden_planes(page: Page, where: str) -> None:
    """ImageJ lists the first plane of a stack alone."""
    match = _IMAGEJ_IMAGES.search(page.description) if page.is_imagej else None
    if match and int(match.group(1)) > 1:
        raise _several(f"an ImageJ stack of {match.group(1)} images", where)


def _several(found: str, where: str) -> DataError:
    return DataError(
        f"several images: {found}", expected="one slide with its levels, in one focal plane", where=where, advice=_ONE
    )


def _depths(page: Page) -> Iterator[Any]:
    yield page.bitspersample
    yield page.sampleformat


def _numbers(page: Page, code: int) -> tuple[float, ...]:
    """Return the values of a tag, whichever type of number they are stored as; none where it is absent or text."""
    tag = page.tags.get(code)
    values = () if tag is None else tag.value if isinstance(tag.value, tuple) else (tag.value,)
    if not all(isinstance(value, (int, float)) for value in values):
        return ()
    if tag is not None and tag.dtype in _FRACTIONS:
        pairs = zip(values[0::2], values[1::2], strict=False)
        return tuple(above / below if below else 0.0 for above, below in pairs)
    return tuple(float(value) for value in values)
