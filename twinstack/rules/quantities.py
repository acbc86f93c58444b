"""Amounts of resources: what a text such as ``1500m`` or ``2Gi`` means, and its one canonical form.

Source: the Kubernetes documentation "Quantity". The canonical form has no fraction, the largest suffix that allows
that, and the kind of suffix (decimal, binary, exponent) that the author chose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

_FORM = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)([KMGTPE]i|[numkMGTPE]?|[eE][+-]?\d{1,3})\Z", re.ASCII)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_LONGEST = 64
_SMALLEST = Fraction(1, 10**9)


class QuantityError(ValueError):
    """A text means no amount."""


def parse_quantity(value: str | int | float) -> Fraction:
    """The amount; QuantityError when the text means none."""
    return _split(value)[0]


def canonical(value: str | int | float) -> str:
    """The canonical text of the same amount; QuantityError when the text means none."""
    amount, suffix = _split(value)
    if amount % _SMALLEST:  # finer than any suffix: rounded up, away from zero
        amount = (amount // _SMALLEST + (1 if amount > 0 else 0)) * _SMALLEST
    if suffix in _BINARY and abs(amount) >= 1024 and amount.denominator == 1:
        found = max((name for name, bits in _BINARY.items() if amount % (1 << bits) == 0), key=_BINARY.__getitem__, default="")
        return f"{amount / (1 << _BINARY[found]) if found else amount}{found}"
    if amount == 0:
        return "0"
    is_exponent = suffix[:1] in ("e", "E") and suffix != "E"
    power = len(str(int(abs(amount)))) // 3 * 3 if is_exponent else 18  # there is no suffix above E, and an exponent above any
    while (amount / Fraction(10) ** power).denominator != 1:
        power -= 3
    number = amount / Fraction(10) ** power
    if is_exponent:
        return f"{number}e{power}" if power else str(number)
    return f"{number}{next(name for name, exponent in _DECIMAL.items() if exponent == power)}"


def _split(value: str | int | float) -> tuple[Fraction, str]:
    text = str(value)
    found = _FORM.match(text) if len(text) <= _LONGEST else None
    if not found:
        raise QuantityError(f"{text!r} is not an amount such as 2, 500m or 128Mi")
    sign, number, suffix = found.groups()
    amount = Fraction(number) * (-1 if sign == "-" else 1)
    if suffix in _BINARY:
        return amount * (1 << _BINARY[suffix]), suffix
    if suffix in _DECIMAL:
        return amount * Fraction(10) ** _DECIMAL[suffix], suffix
    return amount * Fraction(10) ** int(suffix[1:]), suffix


def canonicalize(mapping: dict[str, Any], fields: Iterable[str]) -> None:
    """Bring the amounts in these maps of amounts into canonical form, in place. QuantityError names the first that is none."""
    for field in fields:
        amounts: dict[str, Any] = mapping.get(field) or {}
        for name, value in amounts.items():
            amounts[name] = canonical(value)
