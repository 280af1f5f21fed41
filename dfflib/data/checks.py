"""What a downloaded data set should look like on disk, and how a copy differs from it.

Every loader of a published data set has a ``check(root)`` that returns a list of `Count`; ``dfflib data check`` prints it.
"""

import os
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
