"""What values may be: one table for the options of the command line and for the parameters of notebooks.

Nothing here imports torch: a bad value is refused before anything is loaded.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dfflib.errors import DffError

MAX_CHARACTERS = 60  # characters of a value that is refused


@dataclass(frozen=True)
class Number:
    """Whole numbers (or real ones) from ``low`` to ``high``, both included."""

    low: float
    high: float
    kind: type[int] | type[float] = int

    def read(self, value: object) -> int | float | None:
        """A number, or its decimal digits, as a number of this range; None if it is none."""
        if isinstance(value, str):
            digits = r"[+-]?\d{1,30}" if self.kind is int else r"[+-]?(\d{1,30}\.?\d*|\.\d+)(e[+-]?\d{1,3})?"
            if not re.fullmatch(digits, value.strip(), re.ASCII | re.IGNORECASE):  # int() reads digits of every script
                return None
            value = self.kind(value)
        if not isinstance(value, int | float) or type(value) not in (int, self.kind):  # a bool is an int to isinstance
            return None
        return self.kind(value) if self.low <= value <= self.high else None

    def __str__(self) -> str:
        return f"a {'whole ' * (self.kind is int)}number from {self.low} to {self.high}"


@dataclass(frozen=True)
class OneOf:
    """One of some names."""

    names: tuple[str, ...]

    def read(self, value: object) -> str | None:
        """The value if it is one of the names, else None."""
        return value if isinstance(value, str) and value in self.names else None

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


_CORES = os.cpu_count() or 1
OPTIONS = {
    "seed": Number(0, 2**32 - 1),  # what numpy takes
    "interval": Number(1, 10_000),
    "steps": Number(1, 10_000_000),
    "threads": Number(1, 4 * _CORES),  # each takes memory, and beyond the cores they only wait for each other
    "jobs": Number(0, 4 * _CORES),
    "short_side": Number(1, 16_384),  # the longest side of a video
    "fps": Number(0.00001, 1000.0, float),
}
"""By name of the option, or of the parameter in Python."""

PARAMETERS: Mapping[str, Number | OneOf] = {
    **OPTIONS,
    # Test parts of the sample clips have 30 frames and more; notebook 00 begins with frame 10.
    "interval": Number(1, 20),
    "clip_name": OneOf(("carphone", "bikes", "bigbuckbunny")),
    "shapes_seed": Number(0, 2_999_999),
    "scene": Number(0, 999_999),
    "current_frame": Number(9, 29),  # notebook 06 looks nine frames back from it
    "distance": Number(0, 9),
}
"""By name of the notebook's parameter."""

SIDES = Number(32, 8192)


def check(name: str, value: object, called: str = "", table: Mapping[str, Number | OneOf] = OPTIONS) -> Any:
    """A value of a name in the table, in the type of that; names that are not in the table take any value.

    Args:
        name: key of the table.
        value: number or text.
        called: what the user calls it; by default the name.
        table: `OPTIONS` or `PARAMETERS`.

    Raises:
        DffError: the value is none of those allowed.
    """
    if name not in table:
        return value
    found = table[name].read(value)
    if found is None:
        raise DffError(f"{called or name.replace('_', ' ')} is {abbreviated(value)}: choose {table[name]}.")
    return found


def abbreviated(value: object) -> str:
    """A value for a message: on one line, and not longer than that."""
    if (
        isinstance(value, int) and abs(value) >= 10**MAX_CHARACTERS
    ):  # Python refuses to write out more than some thousand digits
        return "a number of many digits"
    text = value if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+", value, re.ASCII) else repr(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 3]}..."


def check_path(value: str, called: str) -> str:
    """A path as it is, which names something.

    Raises:
        DffError: it is empty (an unset variable of the shell, say), or no system takes it for a name.
    """
    if not value or "\0" in value:
        raise DffError(
            f"{called} is {abbreviated(value)}, which names no file: write a path, or leave it out for the default."
        )
    return value


def parse_size(text: str, called: str = "") -> tuple[int, int]:
    """``"512x256"`` (columns x rows, as videos are named) as ``(256, 512)``.

    Raises:
        DffError: it is not of that form, or a side is out of range.
    """
    width, _, height = text.lower().partition("x")
    columns, rows = SIDES.read(width), SIDES.read(height)
    if columns is None or rows is None or re.search(r"[^\dx]", text.lower()):
        said = f"{called} is {abbreviated(text)}, which" if called else f"{abbreviated(text)}"
        raise DffError(
            f"{said} is no size: write columns x rows, {SIDES.low} to {SIDES.high} pixels each, such as 512x256."
        )
    return int(rows), int(columns)
