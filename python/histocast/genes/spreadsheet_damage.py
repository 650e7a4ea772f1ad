"""Symbols that a spreadsheet has taken for dates or numbers.

Ziemann, Eren and El-Osta, "Gene name errors are widespread in the scientific literature", Genome Biology 17:177
(2016): SEPT2 becomes 2-Sep, MARCH1 becomes 1-Mar, and the RIKEN clone 2310009E13 becomes 2.31E+13.
"""

from __future__ import annotations

import re
from datetime import date, timedelta

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# What a symbol that became a date of this month can have begun with.
_STEMS = {
    "mar": ("MARCH", "MARC"),
    "sep": ("SEPT",),
    "dec": ("DEC",),
    "oct": ("OCT",),
    "feb": ("FEB",),
    "apr": ("APR",),
}

_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})[a-z]*"
_DATES = (
    re.compile(rf"(?P<day>\d{{1,2}})[-/ ]{_MONTH}(?:[-/ ]\d{{2,4}})?", re.IGNORECASE),
    re.compile(rf"{_MONTH}[-/ ](?P<day>\d{{1,2}})(?:[-/, ]+\d{{2,4}})?", re.IGNORECASE),
    re.compile(r"\d{4}-(?P<number>\d{2})-(?P<day>\d{2})(?:[ T]00:00:00)?"),
    re.compile(r"(?P<number>\d{1,2})[/-](?P<day>\d{1,2})(?:[/-]\d{2,4})?"),
    re.compile(r"(?P<day>\d{1,2})[/.](?P<number>\d{1,2})\.?(?:[/.]\d{2,4})?"),
)
# What a date is to a spreadsheet: days since the end of 1899. The symbols end at MARCH11, SEPT14 and DEC1.
_SERIAL = re.compile(r"[34]\d{4}")
_DAY_ZERO = date(1899, 12, 30)
_LAST_SYMBOL = 14
_FLOAT = re.compile(r"\d+(?:[.,]\d+)?E[+-]?\d+", re.IGNORECASE)


def symbols_behind(text: str) -> tuple[str, ...] | None:
    """The human symbols that a spreadsheet can have turned into ``text``; None where it looks like no such thing.

    The tuple is empty for a number: of a RIKEN clone's name too many digits are lost.

    >>> symbols_behind("2-Sep")
    ('SEPT2',)
    >>> symbols_behind("Mar-01")
    ('MARCH1', 'MARC1')
    >>> symbols_behind("9/2/2024"), symbols_behind("45537")
    (('SEPT2', 'FEB9'), ('SEPT2',))
    >>> symbols_behind("2.31E+13")
    ()
    >>> symbols_behind("MARCHF1") is None
    True
    """
    if _FLOAT.fullmatch(text):
        return ()
    if _SERIAL.fullmatch(text):
        day = _DAY_ZERO + timedelta(days=int(text))
        return _symbols_of(_month_of(day.month), day.day) or None if day.day <= _LAST_SYMBOL else None
    dates = [match.groupdict() for pattern in _DATES if (match := pattern.fullmatch(text))]
    if not dates:
        return None
    # 9/3 is the ninth month's third day in one country, and the third month's ninth day in another.
    meant = [
        _symbols_of(parts["month"].lower() if "month" in parts else _month_of(int(parts["number"])), int(parts["day"]))
        for parts in dates
    ]
    return tuple(dict.fromkeys(symbol for symbols in meant for symbol in symbols))


def _symbols_of(month: str, day: int) -> tuple[str, ...]:
    return tuple(f"{stem}{day}" for stem in _STEMS.get(month, ()))


def _month_of(number: int) -> str:
    return _MONTHS[number - 1] if 1 <= number <= 12 else ""
