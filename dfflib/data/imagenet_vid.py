"""ImageNet VID (ILSVRC 2015): snippets with the boxes of 30 classes in every frame, and the still images that training adds.

    Data/VID/train/ILSVRC2015_VID_train_000N/SNIPPET/NNNNNN.JPEG    Annotations/VID/... .xml     (N = 0 .. 3)
    Data/VID/{val,test}/SNIPPET/NNNNNN.JPEG                         Annotations/VID/val/... .xml
    Data/DET/train/...                                              Annotations/DET/train/... .xml
    ImageSets/VID_train_15frames.txt, DET_train_30classes.txt       training lists, from the repository of the DFF authors

A box is written as its first and last column and row, counted from 0, and cut off at the picture's edge, as the DFF
authors read it; here it is half open (`dfflib.data.clips.Boxes`), so its x2 and y2 are larger by one. Of DET, objects of
classes that VID does not have are left out. Frame rates differ (25 or 30 fps) and are not in the data: 25 is nominal.
"""

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from dfflib.data.checks import Count, file_names, find_root, read_lines, require
from dfflib.data.clips import Boxes, Clip
from dfflib.data.label_files import DAMAGE, Files, FrameFiles, check_size
from dfflib.data.video.reader import resized_shape
from dfflib.errors import DffError

CLASS_NAMES = (
    "background", "airplane", "antelope", "bear", "bicycle", "bird", "bus", "car", "cattle", "dog", "domestic cat",
    "elephant", "fox", "giant panda", "hamster", "horse", "lion", "lizard", "monkey", "motorcycle", "rabbit", "red panda",
    "sheep", "snake", "squirrel", "tiger", "train", "turtle", "watercraft", "whale", "zebra",
)  # fmt: skip
"""Background and the 30 classes, in the order of the DFF authors' code."""

WORDNET_IDS = (
    "", "n02691156", "n02419796", "n02131653", "n02834778", "n01503061", "n02924116", "n02958343", "n02402425",
    "n02084071", "n02121808", "n02503517", "n02118333", "n02510455", "n02342885", "n02374451", "n02129165", "n01674464",
    "n02484322", "n03790512", "n02324045", "n02509815", "n02411705", "n01726692", "n02355227", "n02129604", "n04468005",
    "n01662784", "n04530566", "n02062744", "n02391049",
)  # fmt: skip
"""What the annotations call each class."""

OFFICIAL = {"train": (3862, 1_122_397), "val": (555, 176_126), "test": (937, None)}
"""Split -> snippets and frames (of the test split no number of frames is published by the owners)."""

TRAINING_LISTS = {"VID_train_15frames.txt": 57_834, "DET_train_30classes.txt": 53_638}
"""Lists of the DFF authors in ``ImageSets/`` and their lines: at most 15 frames a snippet, and the still images."""

FPS = 25.0
FRAMES_PER_SNIPPET = 15  # that training draws from
SOURCE = "https://www.image-net.org"
LISTS_SOURCE = "https://github.com/msracver/Deep-Feature-Flow"


def clips(
    root: str | os.PathLike, split: str = "val", short_side: int | None = None, names: Sequence[str] | None = None
) -> list[Clip]:
    """The snippets of a split, by name, with ``boxes`` (none of the test split's); they have no masks.

    Nothing but file names is read before a frame or its boxes are asked for.

    Args:
        root: the folder that holds ``Data/`` and ``Annotations/``, or the folder around ILSVRC2015/.
        split: ``train``, ``val`` or ``test``.
        short_side: resize frames so that the shorter side has that many pixels; boxes are scaled alike.
        names: only these snippets, say ``["ILSVRC2015_val_00000000"]``.

    Raises:
        DffError: no such split, folder or snippet. A damaged frame or annotation raises when it is asked for.
    """
    root = _find_root(root)
    snippets = _snippets(root, split)
    names = [names] if isinstance(names, str) else names
    for name in names or ():
        if name not in snippets:
            raise DffError(
                f"{root / 'Data' / 'VID' / split} has no snippet {name!r}: choose one of its {len(snippets)} folders."
            )
    return [_clip(root, snippets[name], split, short_side) for name in (snippets if names is None else names)]


def training_frames(root: str | os.PathLike) -> list[tuple[str, int]]:
    """(snippet, frame) of every frame that training draws from: the authors' list, or where that is absent, 15 evenly spaced
    frames of each training snippet, in the middles of as many equal parts (which is how their list was made).

    Raises:
        DffError: no training snippets, or a line of the list that cannot be read.
    """
    root = _find_root(root)
    listing = root / "ImageSets" / "VID_train_15frames.txt"
    if not listing.is_file():
        found = []
        for name, folder in _snippets(root, "train").items():
            length = len(file_names(folder, ".jpeg"))
            count = min(length, FRAMES_PER_SNIPPET)
            found += [(name, int((n + 0.5) * length / count)) for n in range(count)]
        return found
    frames = []
    for number, words in enumerate(read_lines(listing), 1):
        numbers = [int(word) for word in words[2:] if re.fullmatch("[0-9]{1,9}", word)]
        if len(words) != 4 or len(numbers) != 2 or numbers[0] >= numbers[1]:
            raise DffError(
                f"{listing}, line {number} is {' '.join(words)!r}, not SNIPPET, 1, FRAME and a greater LENGTH: "
                f"take the list from {LISTS_SOURCE}."
            )
        frames.append((words[0].rsplit("/", 1)[-1], numbers[0]))
    return frames


def still_images(root: str | os.PathLike, short_side: int | None = None) -> list[Clip]:
    """The still images of DET that training adds, as clips of one frame, in the order of the authors' list.

    Raises:
        DffError: no list or no images.
    """
    root = _find_root(root)
    listing = require(
        root / "ImageSets" / "DET_train_30classes.txt", "the still images to train on", f"copy it from {LISTS_SOURCE}"
    )
    require(root / "Data" / "DET" / "train", "the still images of DET", f"get ILSVRC2015 DET from {SOURCE}")
    stills = [words[0] for words in read_lines(listing) if words]
    missing = [still for still, there in zip(stills, _present(root, stills), strict=True) if not there]
    if missing:
        raise DffError(
            f"{root / 'Data/DET' / missing[0]}.JPEG is missing, one of {len(missing)} that {listing.name} names: get "
            f"ILSVRC2015 DET from {SOURCE}."
        )
    folders = {kind: root / kind / "DET" for kind in ("Data", "Annotations")}
    return [
        _make(still, [folders["Data"] / f"{still}.JPEG"], [folders["Annotations"] / f"{still}.xml"], short_side)
        for still in stills
    ]


def check(root: str | os.PathLike) -> list[Count]:
    """Snippets, frames and annotations of each split, and the training lists, beside their official numbers.

    The test split and DET are not needed to evaluate.

    Raises:
        DffError: no ImageNet VID there.
    """
    root = _find_root(root)
    counts = []
    for split, (snippets, frames) in OFFICIAL.items():
        note = f"get ILSVRC2015 VID from {SOURCE}"
        present = _snippets(root, split) if (root / "Data/VID" / split).is_dir() else {}
        files = sum(len(file_names(folder, ".jpeg")) for folder in present.values())
        counts.append(Count(f"VID {split} snippets (Data/VID/{split}/)", len(present), snippets, note, split != "test"))
        counts.append(Count(f"VID {split} frames (Data/VID/{split}/)", files, frames, note, split != "test"))
        if split != "test":
            boxes = sum(len(file_names(_annotations(root, folder), ".xml")) for folder in present.values())
            counts.append(Count(f"VID {split} annotations (Annotations/VID/{split}/)", boxes, frames, note))
    for name, lines in TRAINING_LISTS.items():
        file = root / "ImageSets" / name
        found = read_lines(file) if file.is_file() else []
        counts.append(
            Count(f"lines of ImageSets/{name}", len(found), lines, f"copy it from {LISTS_SOURCE}", needed=False)
        )
        if name.startswith("DET") and file.is_file():
            stills = [words[0] for words in found if words]
            note = f"get ILSVRC2015 DET from {SOURCE}"
            counts.append(
                Count("still images of that list (Data/DET/)", sum(_present(root, stills)), lines, note, needed=False)
            )
    return counts


class _Numbered:
    """The files 000000, 000001, ... of a snippet. Paths are made when asked for: a million of them would take a gigabyte."""

    def __init__(self, folder: Path, ending: str, length: int):
        self.folder, self.ending, self.length = folder, ending, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Path:
        return self.folder / f"{index:06d}{self.ending}"


def _clip(root: Path, folder: Path, split: str, short_side: int | None) -> Clip:
    names = file_names(folder, ".jpeg")
    if not names:
        raise DffError(f"{folder} holds no JPEG files (a snippet of ImageNet VID {split}): unpack it again.")
    gap = next((n for n, name in enumerate(names) if name != f"{n:06d}.JPEG"), None)
    if gap is not None:
        raise DffError(
            f"{folder / f'{gap:06d}.JPEG'} is missing from a snippet of {len(names)} frames: unpack it again."
        )
    frames = _Numbered(folder, ".JPEG", len(names))
    if split == "test":
        return _make(folder.name, frames, None, short_side)
    annotations = require(
        _annotations(root, folder),
        f"the boxes of a snippet of ImageNet VID {split}",
        f"get ILSVRC2015 VID from {SOURCE}",
    )
    return _make(folder.name, frames, _Numbered(annotations, ".xml", len(names)), short_side)


def _make(name: str, files: Files, annotations: Files | None, short_side: int | None) -> Clip:
    frames = FrameFiles(files, short_side).frames
    if annotations is None:
        return Clip(name, frames, FPS)
    return Clip(name, frames, FPS, class_names=CLASS_NAMES, boxes=partial(_boxes, files, annotations, short_side))


def _boxes(frames: Files, annotations: Files, short_side: int | None, index: int) -> Boxes:
    """The boxes of a frame, in pixels of the resized frame."""
    file = require(annotations[index], "the boxes of a frame", f"get the annotations from {SOURCE} again")
    try:
        tree = ET.parse(file).getroot()
        width, height = (int(_number(tree, f"size/{side}")) for side in ("width", "height"))
        objects = [_object(node, width, height) for node in tree.findall("object")]
    except DAMAGE as error:
        raise DffError(f"{file} is no annotation of ImageNet ({error}): get it from {SOURCE} again.") from None
    check_size(file, (height, width), frames[index])
    found = [entry for entry in objects if entry is not None]
    new_height, new_width = resized_shape((height, width), short_side)
    scale = torch.tensor([new_width / width, new_height / height] * 2)
    boxes = torch.tensor([entry.box for entry in found], dtype=torch.float32).reshape(-1, 4) * scale
    labels = torch.tensor([entry.label for entry in found], dtype=torch.int64)
    if tree.find("object") is not None and tree.find("object/trackid") is None:  # still images
        return Boxes(boxes, labels, torch.arange(len(found)))
    tracks = torch.tensor([entry.track for entry in found], dtype=torch.int64)
    occluded = torch.tensor([entry.occluded for entry in found], dtype=torch.bool)
    return Boxes(boxes, labels, tracks, occluded, torch.tensor([entry.generated for entry in found], dtype=torch.bool))


class _Object(NamedTuple):
    """What is written of one object; ``track`` is None in still images."""

    box: tuple[float, float, float, float]
    label: int
    track: int | None
    occluded: bool
    generated: bool


def _object(node: ET.Element, width: int, height: int) -> _Object | None:
    """One object; None if VID does not have its class."""
    name = (node.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no name")
    if name not in WORDNET_IDS[1:]:
        return None
    x1, y1, x2, y2 = (_number(node, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    box = (max(x1, 0), max(y1, 0), min(x2, width - 1) + 1, min(y2, height - 1) + 1)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"the box {x1:g}, {y1:g}, {x2:g}, {y2:g} lies outside the frame of {width}x{height}")
    track = None if node.find("trackid") is None else int(_number(node, "trackid"))
    occluded, generated = (node.findtext(flag) == "1" for flag in ("occluded", "generated"))
    return _Object(box, WORDNET_IDS.index(name), track, occluded, generated)


def _number(node: ET.Element, path: str) -> float:
    """A number of up to nine digits, as sizes, boxes and tracks have; more would be cut off or overflow."""
    text = (node.findtext(path) or "").strip()
    if not re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]+)?", text):
        raise ValueError(f"{path} is {text[:20]!r}")
    return float(text)


def _find_root(root: str | os.PathLike) -> Path:
    advice = "does not hold Data/VID/ (the layout of ImageNet VID): give the folder ILSVRC2015 of the download"
    return find_root(
        root, "ImageNet VID", ("ILSVRC2015", "ILSVRC"), lambda folder: (folder / "Data" / "VID").is_dir(), advice
    )


def _snippets(root: Path, split: str) -> dict[str, Path]:
    """Name -> folder of every snippet of a split; those of train lie a folder deeper."""
    if split not in OFFICIAL:
        raise DffError(f"ImageNet VID has no split {split!r}: choose one of {', '.join(OFFICIAL)}.")
    folder = require(root / "Data" / "VID" / split, f"ImageNet VID {split}", f"get ILSVRC2015 VID from {SOURCE}")
    folders = [folder / name for name in file_names(folder)]
    if split == "train":
        # nothing else: some copies hold links to other splits beside the four folders
        groups = [path for path in folders if re.fullmatch(r"ILSVRC\d+_VID_train_\d+", path.name)]
        folders = [group / name for group in groups for name in file_names(group)]
    if not folders:
        raise DffError(f"{folder} holds no snippets (folders of JPEG files): get ILSVRC2015 VID from {SOURCE}.")
    return {path.name: path for path in sorted(folders, key=lambda path: path.name)}


def _annotations(root: Path, snippet: Path) -> Path:
    return root / "Annotations" / snippet.relative_to(root / "Data")


def _present(root: Path, stills: list[str]) -> list[bool]:
    """Which still images are there; each folder is listed once."""
    folders = {still.rpartition("/")[0] for still in stills}
    names = {folder: set(file_names(root / "Data" / "DET" / folder, ".jpeg")) for folder in folders}
    return [f"{still.rpartition('/')[2]}.JPEG" in names[still.rpartition("/")[0]] for still in stills]
