"""Cityscapes: snippets of 30 frames of driving in 50 cities, one frame of each labelled (Cordts et al., CVPR 2016), at 17 Hz.

    leftImg8bit_sequence/SPLIT/CITY/CITY_SSSSSS_FFFFFF_leftImg8bit.png     30 frames a snippet, 2048x1024
    gtFine/SPLIT/CITY/CITY_SSSSSS_FFFFFF_gtFine_labelIds.png               one: the 20th frame of its snippet

The snippet of a labelled frame F is F-19 .. F+10 of the same city and sequence. In some cities (Bochum, Hamburg, Hanover, ...)
all frames have one sequence number and many snippets follow each other under it, so that the labels, not the numbers of
sequences, say what a snippet is. Labels of the test split are dummies: its clips have no masks.

With only the single images at hand (``leftImg8bit/`` instead of ``leftImg8bit_sequence/``), every clip is one labelled frame:
enough to train and test the key-frame network, not to propagate anything.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dfflib.data.checks import Count, file_names, find_root, require
from dfflib.data.clips import IGNORE, Clip
from dfflib.data.label_files import LabelledFiles
from dfflib.data.stacks import LazyStack
from dfflib.errors import DffError

CLASS_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain", "sky",
    "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""The 19 training classes, in the order of their trainId."""

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Value of each class in the files; every other value is ignored."""

COLOURS = np.array(
    [(128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
     (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
     (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)], dtype=np.uint8,
)  # fmt: skip
"""The owners' palette, ``(19, 3)`` RGB."""

OFFICIAL = {"train": 2975, "val": 500, "test": 1525}
"""Snippets of each split."""

SNIPPET, LABELLED = 30, 19  # frames of a snippet, and which of them is labelled, from 0
FPS = 17.0
SOURCE = "https://www.cityscapes-dataset.com"
SEQUENCES, SINGLES = "leftImg8bit_sequence", "leftImg8bit"
FRAME_ENDING, LABEL_ENDING = "_leftImg8bit.png", "_gtFine_labelIds.png"
LARGEST_ID = 33  # "license plate" is -1 in the owners' table, 255 in a file


def clips(
    root: str | os.PathLike, split: str = "train", short_side: int | None = None, cities: Sequence[str] | None = None
) -> list[Clip]:
    """The snippets of a split, by city and frame number; each with its 20th frame labelled (none of the test split's).

    Nothing but file names is read before a frame or a mask is asked for.

    Args:
        root: the folder that holds ``gtFine/`` and ``leftImg8bit_sequence/`` (or ``leftImg8bit/``), or the folder around it.
        split: ``train``, ``val`` or ``test``.
        short_side: resize so that the shorter side has that many pixels (frames by area, masks by nearest neighbour);
            None keeps 2048x1024.
        cities: only these, say ``["aachen"]``.

    Raises:
        DffError: no such split, folder or city, or a frame of a snippet or the label of some frames is missing.
    """
    if split not in OFFICIAL:
        raise DffError(f"Cityscapes has no split {split!r}: choose one of {', '.join(OFFICIAL)}.")
    root = _find_root(root)
    labels = require(
        root / "gtFine" / split, f"the labels of Cityscapes {split}", f"unpack gtFine_trainvaltest.zip of {SOURCE}"
    )
    images = _images(root, split)
    chosen = [cities] if isinstance(cities, str) else cities
    present = file_names(images)
    for city in chosen or ():
        if city not in present:
            raise DffError(f"{images} has no city {city!r}: choose from {', '.join(present) or 'none'}.")
    found = []
    for city in present if chosen is None else chosen:
        folder = require(labels / city, f"the labels of {city}", f"unpack gtFine_trainvaltest.zip of {SOURCE} again")
        marked = [name.removesuffix(LABEL_ENDING) for name in file_names(folder, LABEL_ENDING.lower())]
        left = set(file_names(images / city, FRAME_ENDING.lower()))
        for name in marked:
            clip, used = _clip(name, images / city, left, folder / f"{name}{LABEL_ENDING}", split, short_side)
            found.append(clip)
            left = left - used
        if left:
            raise DffError(
                f"{images / city / min(left)} belongs to no label in {folder} ({len(left)} frames do not): unpack "
                f"gtFine_trainvaltest.zip of {SOURCE} again, or leave the city out."
            )
    if not found:
        raise DffError(f"{images} holds no cities: unpack {images.parent.name}_trainvaltest.zip of {SOURCE} there.")
    return found


def check(root: str | os.PathLike) -> list[Count]:
    """Labels and frames of each split beside their official numbers (2975, 500 and 1525 snippets of 30 frames).

    The single images are a package of their own, and not needed where the sequences are.

    Raises:
        DffError: no Cityscapes there.
    """
    root = _find_root(root)
    sequences = (root / SEQUENCES).is_dir()
    counts = []
    for split, snippets in OFFICIAL.items():
        files = _count(root / "gtFine" / split, LABEL_ENDING)
        note = "get gtFine_trainvaltest.zip" if split != "test" else "dummies, only needed to find the snippets"
        counts.append(Count(f"{split} labels (gtFine/)", files, snippets, f"{note} from {SOURCE}", split != "test"))
        for folder, each in ((SEQUENCES, SNIPPET), (SINGLES, 1)):
            files = _count(root / folder / split, FRAME_ENDING)
            needed = (folder == SEQUENCES) == sequences and split != "test"
            note = f"get {folder}_trainvaltest.zip from {SOURCE}"
            counts.append(Count(f"{split} frames ({folder}/)", files, snippets * each, note, needed))
    return counts


def decode(values: np.ndarray, file: Path, palette: bool = False) -> np.ndarray:
    """Training labels 0..18 and 255 from the values ``(H, W)`` of a ``labelIds`` file.

    Raises:
        DffError: a value that no label has (files named labelTrainIds or color are not what is read).
    """
    wrong = values[(values > LARGEST_ID) & (values != IGNORE)]
    if wrong.size:
        raise DffError(
            f"{file} holds the value {wrong[0]}, but labelIds go from 0 to {LARGEST_ID}: take the file from {SOURCE} again."
        )
    table = np.full(256, IGNORE)
    table[list(LABEL_IDS)] = range(len(LABEL_IDS))
    return table[values]


def _clip(
    name: str, folder: Path, present: set[str], label: Path, split: str, short_side: int | None
) -> tuple[Clip, set[str]]:
    """The clip of a labelled frame, and the names of the files of its frames."""
    try:
        city, sequence, digits = name.rsplit("_", 2)
        number = int(digits)
    except ValueError:
        raise DffError(f"{label} is not named CITY_SSSSSS_FFFFFF{LABEL_ENDING}: take it from {SOURCE} again.") from None
    package = folder.parent.parent.name
    numbers = [number] if package == SINGLES else range(max(number - LABELLED, 0), number - LABELLED + SNIPPET)
    frames = [f"{city}_{sequence}_{n:06d}{FRAME_ENDING}" for n in numbers]
    missing = [frame for frame in frames if frame not in present]
    if missing:
        raise DffError(
            f"{folder / missing[0]} is missing ({len(missing)} frame{'s' * (len(missing) > 1)} of the snippet {name}): "
            f"unpack {package}_trainvaltest.zip of {SOURCE} again."
        )
    at = numbers.index(number)
    labels = [label if i == at else None for i in range(len(frames))]
    files = LabelledFiles([folder / frame for frame in frames], labels, decode, short_side)
    if split == "test":
        return Clip(name, files.frames, FPS), set(frames)
    return Clip(name, files.frames, FPS, LazyStack(files.labels, len(frames)), [at], CLASS_NAMES), set(frames)


def _find_root(root: str | os.PathLike) -> Path:
    def holds(folder: Path) -> bool:
        """Is this the root?"""
        return any((folder / name).is_dir() for name in ("gtFine", SEQUENCES, SINGLES))

    advice = f"does not hold gtFine/ and {SEQUENCES}/ (the layout of Cityscapes): give the folder they lie in"
    return find_root(root, "Cityscapes", ("cityscapes",), holds, advice)


def _images(root: Path, split: str) -> Path:
    for folder in (SEQUENCES, SINGLES):
        if (root / folder / split).is_dir():
            return root / folder / split
    raise DffError(
        f"{root / SEQUENCES / split} is missing (the frames of Cityscapes {split}): unpack {SEQUENCES}_trainvaltest.zip of "
        f"{SOURCE}, or {SINGLES}_trainvaltest.zip for single frames."
    )


def _count(folder: Path, ending: str) -> int:
    return sum(len(file_names(folder / city, ending.lower())) for city in file_names(folder))
