"""DAVIS: short videos in which every frame has object masks (Perazzi et al. 2016, Pont-Tuset et al. 2017), at 24 Hz.

    JPEGImages/480p/SEQ/NNNNN.jpg    Annotations/480p/SEQ/NNNNN.png    (2017 also Full-Resolution)
    ImageSets/2016/{train,val}.txt, or ImageSets/480p/ in the release of 2016: a sequence name, or both paths, a line
    ImageSets/2017/{train,val,test-dev,test-challenge}.txt: a sequence name a line

2016 has one object a sequence (0 and 255 in its files); 2017 numbers them 1, 2, ... (0 = background, 255 = void).
Of the test splits only the first frame is annotated. Masks are binary in both years; instances keep the numbers.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dfflib.data.checks import Count, find_root, read_lines, require
from dfflib.data.clips import IGNORE, Boxes, Clip
from dfflib.data.label_files import LabelledFiles, image_files
from dfflib.data.stacks import LazyStack
from dfflib.errors import DffError

CLASS_NAMES = ("background", "object")

OFFICIAL = {
    (2016, "train"): (30, 2079),
    (2016, "val"): (20, 1376),
    (2017, "train"): (60, 4209),
    (2017, "val"): (30, 1999),
    (2017, "test-dev"): (30, 2086),
    (2017, "test-challenge"): (30, 2180),
}
"""(year, split) -> sequences and frames of the released files: of 2017 10474 in all, where the paper says 10459."""

FPS = 24.0
RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
SOURCE = "https://davischallenge.org"


def clips(
    root: str | os.PathLike,
    year: int = 2016,
    split: str = "val",
    resolution: str = "480p",
    names: Sequence[str] | None = None,
    short_side: int | None = None,
) -> list[Clip]:
    """The sequences of a split, in the order of its list, with ``masks``, ``instances`` and ``boxes``.

    Nothing but lists and file names is read before a frame or a mask is asked for. Sequences that are listed but not
    there are left out, unless none is there or they are asked for by name.

    Args:
        root: the folder that holds ``JPEGImages/``, ``Annotations/`` and ``ImageSets/``, or the folder around DAVIS/.
        year: 2016 or 2017.
        split: ``train`` or ``val``, and of 2017 ``test-dev`` or ``test-challenge``.
        resolution: ``480p``, or ``Full-Resolution`` (2017), ``1080p`` (2016).
        names: load these sequences of the split only, in this order.
        short_side: resize so that the shorter side has that many pixels (frames by area, masks by nearest neighbour).

    Raises:
        DffError: no such year, split, folder or sequence, or a file is missing. A damaged image, a mask of another size
            than its frame and a wrong value in a mask raise when they are asked for.
    """
    root = _find_root(root)
    listed = _listed(root, year, split)
    images = require(root / "JPEGImages" / resolution, f"DAVIS at {resolution}", _other_resolution(root))
    if names is not None:
        names = [names] if isinstance(names, str) else list(names)
        unknown = [name for name in names if name not in listed]
        if unknown:
            raise DffError(f"DAVIS {year} {split} has no sequence {unknown[0]!r}: choose from {', '.join(listed)}.")
        for name in names:
            require(images / name, f"a sequence of DAVIS {year} {split}", f"copy it from {SOURCE}")
    else:
        names = [name for name in listed if os.path.isdir(images / name)]
        if not names:
            raise DffError(
                f"{images} holds none of the {len(listed)} sequences of DAVIS {year} {split}: get them from {SOURCE}."
            )
    return [_clip(root, name, listed[name], resolution, year, split, short_side) for name in names]


def check(root: str | os.PathLike) -> list[Count]:
    """Sequences, frames and masks of each split beside their official numbers.

    A copy of one year, and one without the test splits, which are downloads of their own, is complete in itself.

    Raises:
        DffError: no DAVIS there, or no list of any split.
    """
    root = _find_root(root)
    lists = {key: _listed(root, *key) for key in OFFICIAL if _list_file(root, *key)}
    if not lists:
        raise DffError(f"{root / 'ImageSets'} holds no list of a split (2016/val.txt, say): get it from {SOURCE}.")
    resolution = next((name for name in RESOLUTIONS if (root / "JPEGImages" / name).is_dir()), RESOLUTIONS[0])
    counts = []
    for (year, split), (sequences, frames) in OFFICIAL.items():
        title = f"DAVIS {year} {split}"
        listed = lists.get((year, split))
        if listed is None:
            # train and val of a year come together: with one list but not the other, files were lost
            needed = split in ("train", "val") and any((year, other) in lists for other in ("train", "val"))
            note = f"no list of it in ImageSets/: get it from {SOURCE}" + ("" if needed else ", should you want it")
            counts.append(Count(f"{title} sequences", 0, sequences, note, needed))
            continue
        found = [name for name in listed if os.path.isdir(root / "JPEGImages" / resolution / name)]
        folders = [root / kind / resolution / name for kind in ("JPEGImages", "Annotations") for name in found]
        files = [len(image_files(folder)) if folder.is_dir() else 0 for folder in folders]
        note = f"get what is missing from {SOURCE}"
        counts += [
            Count(f"{title} sequences (JPEGImages/{resolution}/)", len(found), sequences, note),
            Count(f"{title} frames (JPEGImages/{resolution}/)", sum(files[: len(found)]), frames, note),
        ]
        first_only = split.startswith("test")
        note = "only first frames are annotated; the other masks are not public" if first_only else note
        official = None if first_only else frames
        what = f"{title} masks (Annotations/{resolution}/)"
        counts.append(Count(what, sum(files[len(found) :]), official, note, needed=not first_only))
    return counts


class _Sequence(LabelledFiles):
    """One sequence: what ``LabelledFiles`` reads are object numbers."""

    def mask(self, index: int) -> torch.Tensor:
        """``(H, W)`` int64: 1 where any object is, 255 where the annotators could not tell."""
        ids = self.labels(index)
        return torch.where(ids == IGNORE, ids, (ids > 0).long())

    def boxes(self, index: int) -> Boxes:
        """The box of what is visible of each object; objects that are hidden in this frame have none."""
        ids = self.labels(index)
        tracks = [number for number in ids.unique().tolist() if number not in (0, IGNORE)]
        corners = []
        for number in tracks:
            rows, columns = torch.nonzero(ids == number, as_tuple=True)
            corners.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        return Boxes(boxes, torch.ones(len(tracks), dtype=torch.int64), torch.tensor(tracks, dtype=torch.int64))


def decode(year: int, values: np.ndarray, file: Path, palette: bool) -> np.ndarray:
    """Object numbers from the values ``(H, W)`` of a mask.

    Raises:
        DffError: a grey mask of 2016 holds more than black and white, or one of 2017 no more than that.
    """
    found = np.flatnonzero(np.bincount(values.ravel()))
    if year == 2016:
        # a copy of 2017 serves for 2016 as well: its objects are taken together
        wrong = [] if palette else found[(found != 0) & (found != 1) & (found != 255)]
        if len(wrong):
            raise DffError(
                f"{file} holds the value {wrong[0]}, but masks of DAVIS 2016 hold 0 and 255 only: take the masks from "
                f"{SOURCE}, and do not resize them."
            )
        return (values > 0).astype(values.dtype)
    if found[-1] > IGNORE or (not palette and found[-1] == IGNORE and set(found) <= {0, IGNORE}):
        raise DffError(
            f"{file} holds the value {found[-1]} where DAVIS 2017 numbers its objects 1, 2, ...: take the masks of "
            f"2017 from {SOURCE}, or ask for year 2016."
        )
    return values


def _find_root(root: str | os.PathLike) -> Path:
    def holds(folder: Path) -> bool:
        """Is this the root?"""
        return (folder / "JPEGImages").is_dir() and (folder / "ImageSets").is_dir()

    advice = "does not hold JPEGImages/ and ImageSets/ (the layout of DAVIS): give the DAVIS folder of a download"
    return find_root(root, "DAVIS", ("DAVIS",), holds, f"{advice} from {SOURCE}")


def _other_resolution(root: Path) -> str:
    others = [name for name in RESOLUTIONS if (root / "JPEGImages" / name).is_dir()]
    return f"choose resolution {' or '.join(others)}" if others else f"get it from {SOURCE}"


def _list_file(root: Path, year: int, split: str) -> Path | None:
    folders = ("2016", "480p", "1080p") if year == 2016 else ("2017",)
    files = [root / "ImageSets" / folder / f"{split}.txt" for folder in folders]
    return next((file for file in files if file.is_file()), None)


def _listed(root: Path, year: int, split: str) -> dict[str, list[str]]:
    """Sequence -> names of its listed frames without suffix, an empty list where the list does not name frames."""
    splits = [s for y, s in OFFICIAL if y == year]
    if not splits:
        raise DffError(f"there is no DAVIS {year!r}: choose year 2016 or 2017.")
    if split not in splits:
        raise DffError(f"DAVIS {year} has no split {split!r}: choose one of {', '.join(splits)}.")
    file = _list_file(root, year, split)
    if file is None:
        expected = root / "ImageSets" / str(year) / f"{split}.txt"
        raise DffError(f"{expected} is missing (the sequences of DAVIS {year} {split}): get it from {SOURCE}.")
    sequences: dict[str, list[str]] = {}
    for words in read_lines(file):
        if words:
            path = Path(words[0])
            framed = path.suffix.lower() in (".jpg", ".jpeg", ".png")
            sequences.setdefault(path.parent.name if framed else path.name, []).extend([path.stem] if framed else [])
    if not sequences:
        raise DffError(f"{file} is empty (the sequences of DAVIS {year} {split}): get it from {SOURCE}.")
    return sequences


def _clip(
    root: Path, name: str, listed: list[str], resolution: str, year: int, split: str, short_side: int | None
) -> Clip:
    folder, mask_folder = (root / kind / resolution / name for kind in ("JPEGImages", "Annotations"))
    frames = {file.stem: file for file in image_files(folder)}
    masks = {file.stem: file for file in image_files(mask_folder)} if mask_folder.is_dir() else {}
    stems = list(dict.fromkeys(listed)) or list(frames)
    lost = [stem for stem in listed if stem not in frames] or [stem for stem in masks if stem not in frames]
    if lost or not stems:
        raise DffError(
            f"{folder} lacks {lost[0] + '.jpg' if lost else 'its frames'} (DAVIS {year} {split}): get it from {SOURCE}."
        )
    if not split.startswith("test"):
        lost = [stem for stem in stems if stem not in masks]
        if lost:
            raise DffError(
                f"{mask_folder / lost[0]}.png is missing (a mask of DAVIS {year} {split}: every frame has one): "
                f"get it from {SOURCE}."
            )
    labelled = [i for i, stem in enumerate(stems) if stem in masks]
    files = _Sequence([frames[s] for s in stems], [masks.get(s) for s in stems], partial(decode, year), short_side)
    if not labelled:
        return Clip(name, files.frames, FPS)
    objects, instances = LazyStack(files.mask, len(stems)), LazyStack(files.labels, len(stems))
    return Clip(name, files.frames, FPS, objects, labelled, CLASS_NAMES, instances, files.boxes)
