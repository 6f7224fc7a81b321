"""Numbers as people read them."""

import math
import re

DASH = "–"
MINUS = "−"


def number(value: float | None, digits: int = 4, signed: bool = False) -> str:
    """Fixed digits, a true minus sign, a dash for None."""
    if value is None:
        return DASH
    value = round(value, digits) or 0.0  # no minus before a zero
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", MINUS)


def true_minus(text: str) -> str:
    """The text with a minus sign before negative numbers in place of a hyphen; dates, ranges and names stay."""
    return re.sub(r"(?<![\w.)\]-])-(?=\.?\d)", MINUS, text)


def compact(value: float | None) -> str:
    """At most four significant digits, without exponents in the usual range: 0.8312, 12.35, 0.01, 5,310."""
    if value is None:
        return DASH
    size = abs(value)
    if size >= 1000 or (float(value).is_integer() and size < 1e15):
        return f"{value:,.0f}".replace("-", MINUS)
    if size and size < 1e-4:
        return f"{value:.2e}".replace("-", MINUS)
    text = number(value, min(7, max(0, 3 - math.floor(math.log10(size)))))
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def counted(value: float, noun: str) -> str:
    """1 worker, 2 workers"""
    return f"{value:,.0f} {noun}{'' if value == 1 else 's'}"


def percent(value: float | None) -> str:
    """A rate as %, three significant digits: 4.02%, 0.213%."""
    if value is None:
        return DASH
    size = abs(100 * value)
    digits = 0 if size >= 100 or size == 0 else min(4, max(0, 2 - math.floor(math.log10(size))))
    return f"{100 * value:.{digits}f}%".replace("-", MINUS)


def duration(seconds: float | None) -> str:
    """7.3 s, 1 min 40 s, 1 h 02 min"""
    if seconds is None:
        return DASH
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
