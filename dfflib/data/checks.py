"""What a downloaded data set should look like on disk, and how a copy differs from it.

Every loader of a published data set has a ``check(root)`` that returns a list of `Count`; ``dfflib data check`` prints it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dfflib.errors import DffError


@dataclass(frozen=True)
class Count:
    """One line of a check: how many of something a copy holds, beside the official number.

    Attributes:
        what: what was counted, with the folder it lies in.
        found: number found.
        official: number in the complete data set, None where no number is published.
        note: what to do when the two differ, or how they may differ without harm.
        needed: False for parts that the loaders can do without; they do not make a copy incomplete.
    """

    what: str
    found: int
    official: int | None
    note: str = ""
    needed: bool = True

    @property
    def complete(self) -> bool:
        """True when nothing is missing."""
        return not self.needed or (self.found >= self.official if self.official is not None else self.found > 0)


def require(path: Path, what: str, remedy: str) -> Path:
    """``path`` if it exists, else one sentence that says what was expected where.

    Args:
        path: file or folder that must exist.
        what: what it is, say "the frames of the val split".
        remedy: what to do, say "give the folder that holds leftImg8bit and gtFine".

    Raises:
        DffError: it does not exist.
    """
    if not os.path.exists(path):  # unlike a path's own method, it answers for names that no file can have
        raise DffError(f"{path} is missing ({what}): {remedy}.")
    return path


def find_root(
    root: str | os.PathLike, title: str, subfolders: tuple[str, ...], holds: Callable[[Path], bool], advice: str
) -> Path:
    """The folder of a data set, which is ``root`` or lies in it.

    Args:
        root: what the user gave.
        title: of the data set.
        subfolders: where else to look, below ``root``.
        holds: whether a folder has the layout of the data set.
        advice: the end of a sentence that begins with ``root``: what is expected there, and what to do.

    Raises:
        DffError: no such folder, or none of this layout.
    """
    root = require(Path(root).expanduser(), f"the folder of {title}", "check the path")
    found = next((folder for folder in (root, *(root / name for name in subfolders)) if holds(folder)), None)
    if found is None:
        raise DffError(f"{root} {advice}.")
    return found


def file_names(folder: Path, *endings: str) -> list[str]:
    """Names in a folder with one of these endings, in capitals or not, sorted; hidden files are left out. Without an ending,
    the folders in it. Empty if there is no such folder."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        found = [
            entry.name for entry in entries if (entry.name.lower().endswith(endings) if endings else entry.is_dir())
        ]
    return sorted(name for name in found if not name.startswith("."))


def read_lines(file: Path) -> list[list[str]]:
    """The words of every line of a list, whatever the system that wrote it."""
    return [line.split() for line in file.read_text("utf-8-sig", "replace").splitlines()]
