"""Where things lie: the folders of the workbook, found from this file and never from the working directory.

A wheel carries, in ``dfflib/shipped``, the checkpoint of ``dfflib segment`` and the published numbers (``setup.py`` puts
them there). Installed from one, the library knows of no checkout, and the working directory takes its place.
"""

import os
import uuid
from pathlib import Path

from dfflib.errors import DffError

_PACKAGE = Path(__file__).resolve().parent
_SHIPPED = _PACKAGE / "shipped"
INSTALLED = _SHIPPED.is_dir()
"""Is this a package by itself, and not part of a checkout (``pip install -e .``, as the two README commands do)?"""

ROOT = Path() if INSTALLED else _PACKAGE.parent
"""The checkout; without one, the working directory of the moment."""

NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data"
CHECKPOINTS = (_SHIPPED if INSTALLED else DATA) / "checkpoints"
PUBLISHED = (_SHIPPED if INSTALLED else DATA) / "published"
FIGURES = ROOT / "figures"
RUNS = ROOT / "runs"


def need_checkout(what: str) -> None:
    """Refuse what only a checkout can do.

    Args:
        what: cannot be done without its notebooks, figures and checkpoints.

    Raises:
        DffError: dfflib was installed without a checkout.
    """
    if INSTALLED:
        raise DffError(
            f"{what} needs a checkout of the workbook, and this dfflib was installed without one: clone its repository, and "
            "use the .venv/bin/dfflib that `make reproduce` installs there."
        )


def run_dir(profile: str, out_dir: str | os.PathLike = "") -> Path:
    """Folder that a run writes to: ``out_dir`` if given, else ``runs/<profile>``. Created when missing."""
    folder = Path(out_dir) if str(out_dir) else RUNS / profile
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def write_atomically(path: str | os.PathLike, data: bytes | str) -> Path:
    """Write a file all or not at all: a reader, or a run that was interrupted, never meets half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
