"""Which notebooks a run executes, and which parameters each of them is passed."""

import ast
import contextlib
import difflib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dfflib import limits, paths
from dfflib.errors import DffError

if TYPE_CHECKING:
    import nbformat

TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "tuple": list, "dict": dict}
# Every notebook gets these two; they have options of their own.
RESERVED = {"profile": "--profile", "out_dir": "--out-dir"}


def find_notebooks(folder: str | os.PathLike = paths.NOTEBOOKS) -> list[Path]:
    """The numbered notebooks of a folder, in order.

    Raises:
        DffError: there are none, or dfflib was installed without them.
    """
    if folder == paths.NOTEBOOKS:
        paths.need_checkout("reproduce")
    found = sorted(Path(folder).resolve().glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise DffError(f"there are no notebooks NN_*.ipynb in {folder}: restore them with `git checkout notebooks`.")
    return found


def select(every: list[Path], only: Iterable[str]) -> list[Path]:
    """The notebooks that ``only`` names by number or name, in the workbook's order; all of them if it is empty.

    Raises:
        DffError: a name that no notebook has.
    """
    only = list(only)
    wanted = [part.strip().removesuffix(".ipynb") for item in only for part in str(item).split(",") if part.strip()]
    if only and not wanted:
        raise DffError("--only names no notebook: give a number or a name, or leave it out to run all of them.")
    chosen = set()
    for part in wanted:
        matching = {path for path in every if path.stem == part or path.stem.split("_")[0] == part.zfill(2)}
        if not matching:
            raise DffError(f"there is no notebook {part!r}: choose from {', '.join(path.stem for path in every)}.")
        chosen |= matching
    return [path for path in every if path in chosen or not wanted]


def assign_parameters(
    selected: list[Path], profile: str, parameters: dict, out_dir: str | os.PathLike = ""
) -> dict[Path, dict]:
    """What each notebook is passed: the profile and the run folder, and those of ``parameters`` that it declares.

    Raises:
        DffError: a parameter that no selected notebook declares, or a value that is not of the declared type or out of
            the range that `dfflib.limits` knows for that name.
    """
    declared = {path: _declared(path) for path in selected}
    known = sorted({name for names in declared.values() for name in names} - set(RESERVED))
    for name in parameters:
        if name in RESERVED:
            raise DffError(f"parameter {name!r} has an option of its own: use {RESERVED[name]}.")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            names = ", ".join(known) or "none"
            raise DffError(f"no selected notebook has a parameter {name!r}{hint}: known are {names}.")
    # Relative to the caller's directory, not to the kernel's. The default stays empty, so that the executed notebooks
    # do not depend on where the checkout lies.
    given = {"profile": profile, "out_dir": os.path.realpath(out_dir) if str(out_dir) else "", **parameters}
    return {
        path: {name: convert(name, given[name], names[name]) for name in given if name in names}
        for path, names in declared.items()
    }


def convert(name: str, value: object, declared: dict) -> object:
    """A parameter's value in the type that the notebook declares.

    Args:
        name: for the message.
        value: a string is read as a literal, unless the declared type is ``str``.
        declared: papermill's entry for this parameter: ``inferred_type_name`` and ``default``.

    Raises:
        DffError: it is not of that type.
    """
    annotation, default = declared["inferred_type_name"], declared["default"]
    if annotation == "None":  # papermill's word for "no annotation"
        annotation = type(_literal(default)).__name__
    kind = TYPES.get(re.split(r"\W", annotation)[0])
    optional = value in (None, "None", "null") and "None" in annotation
    if optional or kind is None:
        return None if optional else _literal(value)
    if kind is not str:
        value = _literal(value)
    if kind is float and type(value) is int:
        value = float(value)
    if isinstance(value, tuple):
        value = list(value)
    if type(value) is not kind:  # a bool is an int to isinstance
        given = limits.abbreviated(value)
        raise DffError(f"parameter {name!r} is {given}, but its type is {annotation}: give, say, {name}={default}.")
    return limits.check(name, value, f"parameter {name!r}", limits.PARAMETERS)


def _literal(value: object) -> object:
    """A string as the JSON or Python literal that it spells, else as it is."""
    if not isinstance(value, str):
        return value
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):  # many digits, many brackets
            return read(value)
    return value


def read_notebook(path: str | os.PathLike) -> "nbformat.NotebookNode":
    """A notebook with all that is looked for in one: cells with type, text and metadata.

    Raises:
        DffError: it cannot be read, or lacks a field.
    """
    import nbformat

    try:
        book = nbformat.read(path, as_version=4)
        for cell in book.cells:
            if not isinstance(cell.source, str) or cell.cell_type not in ("code", "markdown", "raw"):
                raise ValueError("a cell is of no known kind")
            list(map(str.lower, cell.metadata.get("tags", [])))
        book.metadata.get("kernelspec", {}).get("name")
        return book
    except Exception as error:  # nbformat raises its own kinds for broken JSON, old formats, missing fields
        raise DffError(f"{path} is not a readable notebook ({type(error).__name__}): restore it.") from error


def _declared(notebook: Path) -> dict[str, dict]:
    """Parameters of a notebook as papermill knows them; it is python, whether its metadata say so or not."""
    from papermill.translators import PythonTranslator

    cells = [cell for cell in read_notebook(notebook).cells if "parameters" in cell.metadata.get("tags", [])]
    return {found.name: found._asdict() for found in PythonTranslator.inspect(cells[0])} if cells else {}
