"""The published data sets by name: where a copy lies, and whether it is complete.

Copies are looked for in the folder that the environment variable ``DFFLIB_DATA`` names, or else in ``data/`` of the
checkout, each in a sub-folder of its own (`FOLDERS`). A link to wherever they are kept will do. Nothing is ever downloaded.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dfflib.data import camvid, cityscapes, davis, imagenet_vid, optical_flow
from dfflib.data.checks import Count
from dfflib.errors import DffError
from dfflib.paths import DATA

FOLDERS = {
    "camvid": "CamVid",
    "davis": "DAVIS",
    "cityscapes": "cityscapes",
    "imagenet_vid": "ILSVRC2015",
    "flyingchairs": "FlyingChairs",
    "sintel": "Sintel",
}
"""Name of a set -> its folder within the folder of all data."""

CHECKS: dict[str, Callable[[Path], list[Count]]] = {
    "camvid": camvid.check,
    "davis": davis.check,
    "cityscapes": cityscapes.check,
    "imagenet_vid": imagenet_vid.check,
    **{name: partial(optical_flow.check, name) for name in optical_flow.SOURCES},
}


def data_folder() -> Path:
    """Where copies are looked for."""
    return Path(os.environ.get("DFFLIB_DATA") or DATA).expanduser()


def find(name: str) -> Path | None:
    """The folder of a set's copy, or None if there is none.

    Raises:
        DffError: no set of that name.
    """
    folder = data_folder() / FOLDERS[_known(name)]
    return folder if folder.is_dir() else None


def copy_of(name: str) -> Path:
    """The folder of a set's copy.

    Raises:
        DffError: no set of that name, or no copy of it.
    """
    folder = find(name)
    if folder is None:
        raise DffError(
            f"{data_folder() / FOLDERS[name]} is missing (a copy of {name}): put or link one there, or set DFFLIB_DATA to "
            f"the folder that holds {FOLDERS[name]}."
        )
    return folder


def check(name: str, path: str | os.PathLike = "") -> list[Count]:
    """What a copy holds, beside the official numbers.

    Args:
        name: of the set.
        path: its folder; empty looks where `find` does.

    Raises:
        DffError: no such set, no copy, or a folder of another layout.
    """
    return CHECKS[_known(name)](Path(path) if str(path) else copy_of(name))


def _known(name: str) -> str:
    if name not in FOLDERS:
        raise DffError(f"there is no data set {name!r}: choose one of {', '.join(FOLDERS)}.")
    return name
