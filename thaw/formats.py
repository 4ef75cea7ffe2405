"""Formats of numbers, cells and names for people."""

import math
import re
from numbers import Real
from typing import Literal

DASH = "–"
Unit = Literal["percent", "score"]


def number(value: object) -> float | None:
    """The value as a finite float; None for what is missing, undefined or not a number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(value) if math.isfinite(value) else None


def in_percent(value: object) -> str:
    """A share in percent, without the sign for it, such as 82.4."""
    finite = number(value)
    return DASH if finite is None else f"{100 * finite:.1f}"


def percent(value: object) -> str:
    """A share, such as 82.4 %."""
    shown = in_percent(value)
    return shown if shown == DASH else f"{shown} %"


def score(value: object) -> str:
    """A score between 0 and 1, such as 0.859."""
    finite = number(value)
    return DASH if finite is None else f"{finite:.3f}"


def signed(value: float, decimals: int) -> str:
    """A number with its sign, and with more decimals if rounding would turn it into zero."""
    shown = f"{value:+.{decimals}f}"
    if value != 0 and float(shown) == 0:
        shown = f"{value:+.{decimals + 2}f}"
    if float(shown) == 0:
        shown = shown.lstrip("+-")
    return shown.replace("-", "−")


def change(value: object, unit: Unit) -> str:
    """A difference: in percentage points without the word, or as a plain difference of scores."""
    finite = number(value)
    if finite is None:
        return DASH
    return signed(100 * finite, 1) if unit == "percent" else signed(finite, 3)


def count(value: object) -> str:
    """A number of things, such as 2,624."""
    finite = number(value)
    return DASH if finite is None else f"{int(finite):,}"


def text(value: object) -> str:
    """A cell of a frame or of the parameters; a dash if it is missing."""
    missing = value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))
    if missing or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(text(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def escaped(value: object) -> str:
    """A user's text, escaped for Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!$])", r"\\\1", str(value))


def short(name: str, longest: int = 22) -> str:
    """A class name that fits beside a matrix, cut in the middle because names often differ at the
    end."""
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def points(share: float) -> str:
    """A difference of two shares in percentage points, in ASCII, such as +6.5."""
    return f"{100 * share:+z.1f}"
