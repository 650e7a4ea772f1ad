"""Files whose bytes were flipped or cut off, each by a seed."""

from __future__ import annotations

import numpy as np

Stretch = tuple[int, int]


def vary(data: bytes, random: np.random.Generator, fragile: list[Stretch]) -> bytes:
    """Cut ``data`` off, or change some of its bytes, half of the time where its headers are."""
    changed = bytearray(data)
    match random.integers(0, 6):
        case 0:
            return data[: random.integers(1, len(data))]
        case 1:
            start = int(random.integers(0, len(data)))
            length = min(int(random.integers(1, 4096)), len(data) - start)
            changed[start : start + length] = random.bytes(length)
        case 2:
            for position in random.integers(0, len(data), random.integers(1, 40)):
                changed[position] ^= 1 << random.integers(0, 8)
        case _:
            first, last = fragile[random.integers(0, len(fragile))]
            for position in random.integers(first, last, random.integers(1, 6)):
                changed[position] = random.integers(0, 256)
    return bytes(changed)


def headers(data: bytes, *, most: int = 60) -> list[Stretch]:
    """Return where codestreams and frames begin, and where directories of a TIFF usually are."""
    stretches = [(0, 16), (0, min(len(data), 4000)), (max(0, len(data) - 2000), len(data))]
    for magic in (b"\xff\x4f\xff\x51", b"\xff\xd8\xff"):
        position = data.find(magic)
        while position >= 0 and len(stretches) < most:
            stretches.append((position, min(len(data), position + 150)))
            position = data.find(magic, position + 4)
    return stretches
