"""Published numbers, each typed once, in ``data/published/PAPER.csv``; whatever compares with a paper reads them from here."""

from functools import cache

import pandas as pd

from dfflib.errors import DffError
from dfflib.paths import PUBLISHED
from dfflib.results import read_table, required_number, required_text, text, whole_number

DFF = "deep_feature_flow"


def _above_zero(cell: str) -> float:
    if (value := required_number(cell)) <= 0:
        raise ValueError("which is not above 0")
    return value


_FORMAT = dict(
    paper=required_text, table=required_text, row=required_text, dataset=text, method=required_text, feature_net=text,
    flow_net=text, interval=whole_number, metric=required_text, value=_above_zero, unit=required_text, source=required_text,
)  # fmt: skip
PUBLISHED_COLUMNS = tuple(_FORMAT)


@cache
def _read_published(paper: str) -> pd.DataFrame:
    path = PUBLISHED / f"{paper}.csv"
    if not path.is_file():
        papers = ", ".join(sorted(file.stem for file in PUBLISHED.glob("*.csv") if file.stem != "rules"))
        raise DffError(f"there are no published numbers of {paper!r} ({path}): choose one of {papers}.")
    rows = read_table(path, _FORMAT, "no file of published numbers", "restore it with `git checkout data/published`")
    return rows.astype({"interval": "Int64"})


def published(paper: str = DFF, **filters) -> pd.DataFrame:
    """Published numbers of a paper, one row per number.

    Args:
        paper: a file of ``data/published``.
        filters: column = value; an empty cell is ``""``.

    Raises:
        DffError: no such paper or column.
    """
    rows = _read_published(paper)
    for name, value in filters.items():
        if name not in rows:
            raise DffError(f"published numbers have no column {name!r}: choose from {', '.join(PUBLISHED_COLUMNS)}.")
        column = rows[name]
        rows = rows[column.isna() if isinstance(value, str) and not value else (column == value).fillna(False)]
    return rows.copy()


def one(paper: str = DFF, **filters) -> float:
    """The one published number that the filters name.

    Raises:
        DffError: none matches, or several do.
    """
    rows = published(paper, **filters)
    if len(rows) != 1:
        what = ", ".join(f"{name}={value!r}" for name, value in filters.items())
        raise DffError(f"{len(rows)} published numbers of {paper} match {what}: name exactly one.")
    return float(rows["value"].iloc[0])


def headline() -> str:
    """The paper's sentence: how many times as fast, at which loss."""
    times = one(table="text", row="stated speedup of DFF", dataset="Cityscapes")
    frame, dff = (one(table="Table 4", dataset="Cityscapes", method=name, metric="miou") for name in ("Frame", "DFF"))
    return f"{times:.1f} times at {frame - dff:.1f} points, l = 5, Cityscapes"


def published_by_offset(paper: str = DFF, **filters) -> pd.Series:
    """Accuracy at each offset alone, from a published curve of averages A(l): (d + 1) A(d + 1) - d A(d), indexed by d.

    Args:
        paper, filters: as for `published`; they must leave one number for each l = 1 .. L.

    Raises:
        DffError: they leave something else.
    """
    rows = published(paper, **filters).sort_values("interval")
    if not len(rows) or rows["interval"].tolist() != list(range(1, len(rows) + 1)):
        raise DffError(f"{filters} is no published curve: name one accuracy for each interval from 1.")
    total = rows["value"].to_numpy() * rows["interval"].to_numpy(dtype=float)
    return pd.Series([total[0], *(total[1:] - total[:-1])], index=pd.RangeIndex(len(total), name="offset"))
