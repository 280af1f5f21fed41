"""Result files: the columns that all of them share, writing one, and reading it back only if it is whole.

Whatever shows, judges or publishes numbers reads them here: a file that was cut, edited or replaced is refused with one
sentence that names the row, before anything is made of it.
"""

import csv
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from dfflib import __version__, machine
from dfflib.errors import DffError
from dfflib.paths import write_atomically

COLUMNS = ["experiment", "dataset", "method", "interval", "offset", "metric", "value", "unit", "seed", "device",
           "seconds", "version"]  # fmt: skip
_ESCAPED = {ord(mark): f"&#{ord(mark)};" for mark in "&<>|`*[]$\\"}
_LARGEST = 10**9  # intervals, offsets and seeds are smaller


def tidy(table: pd.DataFrame, experiment: str, dataset: str, **columns) -> pd.DataFrame:
    """A table in the workbook's result format: one row per number, the same columns everywhere.

    Args:
        table: has at least ``metric, value, unit``; other known columns are kept, unknown ones dropped.
        experiment, dataset: what was measured on what.
        columns: the same value for every row: ``seed``, ``interval``, ``seconds`` and so on.
    """
    known = dict(
        experiment=experiment, dataset=dataset, device=machine.describe_device(), version=__version__, **columns
    )
    return table.assign(**known).reindex(columns=COLUMNS)


def write_results(table: pd.DataFrame, name: str, folder: str | os.PathLike) -> Path:
    """Write tidy rows to ``folder/results/name.csv``, atomically."""
    text = table.reindex(columns=COLUMNS).to_csv(index=False, float_format="%.6g")
    return write_atomically(Path(folder) / "results" / f"{name}.csv", text)


def read_results(path: str | os.PathLike) -> pd.DataFrame:
    """Tidy rows of a result file. An empty cell is NaN: a number that could not be measured.

    Raises:
        DffError: no such file, or a row that is not of the format: its sentence names file and row.
    """
    rows = read_table(path, _RESULTS, "no file of results", "delete it, and run the notebook that writes it")
    share = (rows["unit"] == "%") & ~rows["value"].isna()
    if (bad := share & ~rows["value"].between(0, 100)).any():
        row = bad.to_numpy().argmax()
        raise DffError(
            f"{path} is no file of results (row {row + 2}: {rows['value'][row]:g} % is no share): delete it, and run the "
            f"notebook that writes it."
        )
    return rows


def read_table(
    path: str | os.PathLike, columns: Mapping[str, Callable[[str], object]], what: str, remedy: str
) -> pd.DataFrame:
    """A CSV file with exactly these columns.

    Args:
        path: UTF-8, comma-separated, a header line.
        columns: name -> what makes the value of a cell from its text: `text`, `required_text`, `whole_number`, `number`,
            `required_number`, or one that raises ValueError for others.
        what, remedy: of the sentence that refuses it: ``PATH is WHAT (why): REMEDY.``

    Raises:
        DffError: no such file, or it is not of this form.
    """
    read: dict[tuple[str, str], object] = {}
    lines = None
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            if next(lines, []) != list(columns):
                raise ValueError(f"its columns are not {', '.join(columns)}")
            rows = []
            for cells in lines:
                if len(cells) != len(columns):
                    raise ValueError(f"{len(cells)} cells for {len(columns)} columns")
                for named_cell in zip(columns, cells, strict=True):
                    if named_cell not in read:  # most cells are like one above
                        read[named_cell] = _value(*named_cell, columns[named_cell[0]])
                rows.append([read[named_cell] for named_cell in zip(columns, cells, strict=True)])
    except OSError as error:
        raise DffError(f"{path} cannot be read ({error.strerror}): {remedy}.") from None
    except UnicodeDecodeError:
        raise DffError(f"{path} is {what} (it is no UTF-8 text): {remedy}.") from None
    except (ValueError, csv.Error) as error:
        why = f"row {lines.line_num}: {error}" if lines else str(error)
        raise DffError(f"{path} is {what} ({why}): {remedy}.") from None
    return pd.DataFrame(rows, columns=list(columns))


def _value(name: str, cell: str, read: Callable[[str], object]) -> object:
    try:
        return read(cell)
    except ValueError as error:
        shown = cell if len(cell) <= 40 else cell[:37] + "..."
        raise ValueError(f"{name} is {shown!r}, {error}") from None


def text(cell: str) -> str | None:
    """Printable characters on one line; None for an empty cell."""
    if not cell.isprintable():
        raise ValueError("which is no plain text")
    return cell or None


def required_text(cell: str) -> str:
    """A text that must not be empty."""
    if not cell.strip():
        raise ValueError("where something must be named")
    text(cell)
    return cell


def whole_number(cell: str) -> float | int:
    """A whole number from 0 on; NaN for an empty cell."""
    if not cell:
        return math.nan
    if not re.fullmatch(r"[0-9]{1,12}(\.0)?", cell) or float(cell) > _LARGEST:  # as pandas writes beside empty cells
        raise ValueError("which is no whole number in range")
    return int(float(cell))


def number(cell: str) -> float:
    """A finite number; NaN for an empty cell."""
    return required_number(cell) if cell else math.nan


def required_number(cell: str) -> float:
    """A finite number that must be there."""
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", cell):
        raise ValueError("which is no number")
    if not math.isfinite(found := float(cell)):
        raise ValueError("which is not finite")
    return found


_RESULTS = dict(
    experiment=required_text, dataset=text, method=text, interval=whole_number, offset=whole_number,
    metric=required_text, value=number, unit=required_text, seed=whole_number, device=text, seconds=number, version=text,
)  # fmt: skip
LOG = dict(step=whole_number, loss=required_number, lr=required_number, metric=number, seconds=required_number)
"""Columns of a training log, for `read_table`."""


def in_markdown(value: object) -> str:
    """A value of a file as plain text in a Markdown table: no mark of Markdown, HTML or LaTeX in it takes effect."""
    return " ".join(str(value).translate(_ESCAPED).split())
