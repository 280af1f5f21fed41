"""Where things lie: the folders of the workbook, found from this file and never from the working directory."""

import os
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: the package is installed in place (``pip install -e .``), as the two README commands do."""

NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data"
CHECKPOINTS = DATA / "checkpoints"
PUBLISHED = DATA / "published"
FIGURES = ROOT / "figures"
RUNS = ROOT / "runs"


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
