"""Arguments of networks: of each its default, which tells its type, and its range; and the check of values against them."""

import numbers
import reprlib
from typing import NamedTuple, cast

from dfflib.errors import DffError

KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a line of text"}
Limits = tuple[float, float]


class Argument(NamedTuple):
    """An argument of a network: its default, whose type any value must have, and for numbers the least and the largest."""

    default: bool | int | float
    limits: Limits | None = None


def check_value(name: str, value: object, kind: type, limits: Limits | None = None) -> None:
    """Refuse a value that is not of a kind, or a number out of its limits.

    Args:
        name: for the message.
        value: anything.
        kind: ``bool``, ``int``, ``float`` (which takes whole numbers too) or ``str`` (one line, of 200 characters at most).
        limits: least and largest number; None takes any, NaN too.

    Raises:
        DffError: it does not fit.
    """
    kinds: dict[type, type] = {int: numbers.Integral, float: numbers.Real}
    fits = isinstance(value, kinds.get(kind, kind))
    if isinstance(value, bool):  # which is an int to Python
        fits = kind is bool
    if fits and isinstance(value, str):
        fits = len(value) <= 200 and value.isprintable()
    if fits and limits:
        fits = limits[0] <= cast(float, value) <= limits[1]
    if not fits:
        span = f" from {limits[0]} to {limits[1]}" if limits else ""
        raise DffError(f"{name} is {reprlib.repr(value)}: choose {KINDS[kind]}{span}.")
