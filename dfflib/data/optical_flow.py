"""Published optical flow, to pre-train flow networks on: FlyingChairs, and MPI Sintel.

    FlyingChairs/   FlyingChairs_train_val.txt  data/NNNNN_{img1.ppm,img2.ppm,flow.flo}
    Sintel/         training/{clean,final}/SCENE/frame_NNNN.png  training/flow/SCENE/frame_NNNN.flo

These sets give two images and the flow **from the first to the second**: ``first(p) = second(p + flow(p))`` wherever
the content stays in view. Ours is ``current(p) = key(p + flow(p))`` (see `dfflib.warp`). So the **first image is our
current frame, the second one is our key frame**, and the published flow is our backward flow as it stands: no sign
changes. (The key frame is then the later of the two; a flow network sees a pair of images and no clock.)
"""

import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dfflib.data.checks import Count, file_names, find_root, require
from dfflib.data.label_files import read_image
from dfflib.data.pairs import Batch, generator, random_index
from dfflib.data.video.reader import to_tensor
from dfflib.errors import DffError
from dfflib.warp import known

SOURCES = {
    "flyingchairs": "https://lmb.informatik.uni-freiburg.de/resources/datasets/FlyingChairs.en.html",
    "sintel": "http://sintel.is.tue.mpg.de",
}
"""The sets, and where to get them."""

CHAIRS = {"train": 22_232, "val": 640}  # pairs of each split of FlyingChairs
LISTING, MARKS = "FlyingChairs_train_val.txt", {"train": "1", "val": "2"}
PASSES, SCENES, FRAMES, FLOWS = ("clean", "final"), 23, 1_064, 1_041  # of Sintel's training part; frames of one pass
HELD_OUT = 6  # every so many scenes of Sintel's one validates: its own test part has no flow
Files = tuple[Path, Path, Path]  # first image, second image, flow


class FlowPairs:
    """Random crops of pairs with published flow.

    Args:
        name: ``flyingchairs`` or ``sintel``.
        root: the folder that holds ``data/`` or ``training/``, or the one around it.
        split: ``train`` or ``val``. Of Sintel, which has no such split, every sixth scene validates, in both passes.
        crop: ``(height, width)`` that pairs are cut to.
        flip: mirror half of the pairs.

    Raises:
        DffError: unknown name or split; a folder that is missing, or where files lack their partners; no room for
            the crop. A damaged file, and one of another size than its partner, raise when they are read.
    """

    def __init__(
        self, name: str, root: str | os.PathLike, split: str, crop: tuple[int, int], flip: bool = True
    ) -> None:
        if split not in MARKS:
            raise DffError(f"{name} has no split {split!r}: choose one of {', '.join(MARKS)}.")
        folder = _find_root(name, root)
        self.files = _chairs(folder, split) if name == "flyingchairs" else _sintel(folder, split)
        self.crop, self.flip = crop, flip
        self._remedy = f"copy it again from {SOURCES[name]}"
        if not self.files:
            raise DffError(f"{folder} holds no pair of the {split} split: {self._remedy}.")
        self._sample(generator(0, 0))  # so that too large a crop is refused before training begins

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """A whole pair: key and current frame, uint8 ``(3, H, W)``, and flow, float32 ``(2, H, W)`` in pixels.

        Raises:
            DffError: a file is damaged, or they are not of one size.
        """
        first, second, flow_file = self.files[index]
        current, key = (to_tensor(np.asarray(read_image(file).convert("RGB"))) for file in (first, second))
        flow = read_flo(flow_file)
        for file, part in ((second, key), (flow_file, flow)):
            if part.shape[1:] != current.shape[1:]:
                sizes = [f"{tensor.shape[2]}x{tensor.shape[1]}" for tensor in (part, current)]
                raise DffError(f"{file} has {sizes[0]} pixels but {first} has {sizes[1]}: {self._remedy}.")
        return key, current, flow

    def batch(self, size: int, seed: int, step: int) -> Batch:
        """The batch of a training step, a pure function of the three arguments (see `dfflib.data.pairs`)."""
        rng = generator(seed, step)
        samples = [self._sample(rng) for _ in range(size)]
        key, current, flow = (torch.stack(parts) for parts in zip(*samples, strict=True))
        valid = known(flow)
        return Batch(key / 255, current / 255, flow=torch.where(valid, flow, 0), valid=valid)

    def _sample(self, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        index = random_index(len(self), rng)
        whole = self.read(index)
        height, width = whole[0].shape[1:]
        if height < self.crop[0] or width < self.crop[1]:
            raise DffError(
                f"{self.files[index][0]} has {width}x{height} pixels, less than the training crop of "
                f"{self.crop[1]}x{self.crop[0]}: choose a smaller crop."
            )
        top, left = random_index(height - self.crop[0] + 1, rng), random_index(width - self.crop[1] + 1, rng)
        window = (..., slice(top, top + self.crop[0]), slice(left, left + self.crop[1]))
        key, current, flow = (part[window] for part in whole)
        if self.flip and random_index(2, rng):
            key, current = key.flip(-1), current.flip(-1)
            flow = flow.flip(-1) * flow.new_tensor([-1, 1]).view(2, 1, 1)  # what moved right moves left in a mirror
        return key, current, flow


def read_flo(file: Path) -> Tensor:
    """Flow ``(2, H, W)`` float32 from a file in Middlebury's format: ``PIEH``, width, height, then x, y of each pixel.

    Raises:
        DffError: the file is damaged, or none of these.
    """
    try:
        data = file.read_bytes()
    except OSError:
        data = b""
    width, height = np.frombuffer(data[4:12], "<i4") if len(data) >= 12 else (0, 0)
    if data[:4] != b"PIEH" or min(width, height) < 1 or len(data) != 12 + 8 * int(width) * int(height):
        raise DffError(f"{file} is no .flo file, or is damaged: replace it by the file of the original download.")
    values = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)
    return torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32))


def check(name: str, root: str | os.PathLike) -> list[Count]:
    """What a copy holds beside the official numbers. Nothing but file names (and FlyingChairs' list of splits) is read.

    Raises:
        DffError: no such set, or no folder of it there.
    """
    folder, note = _find_root(name, root), f"get them from {SOURCES[name]}"

    def count(what: str, pattern: str, official: int) -> Count:
        """How many files of one kind there are, beside the official number."""
        found = sum(not path.name.startswith(".") for path in folder.glob(pattern))
        return Count(f"{what} ({pattern})", found, official, note)

    if name == "flyingchairs":
        kinds = {"first images": "img1.ppm", "second images": "img2.ppm", "flow fields": "flow.flo"}
        counts = [count(what, f"data/*_{ending}", sum(CHAIRS.values())) for what, ending in kinds.items()]
        words = (folder / LISTING).read_text("utf-8", "replace").split() if (folder / LISTING).is_file() else []
        return counts + [
            Count(f"{split} pairs listed ({LISTING})", words.count(MARKS[split]), official, note)
            for split, official in CHAIRS.items()
        ]
    counts = []
    for kind in PASSES:
        counts.append(count(f"scenes, {kind}", f"training/{kind}/*/", SCENES))
        counts.append(count(f"frames, {kind}", f"training/{kind}/*/*.png", FRAMES))
    return [*counts, count("flow fields", "training/flow/*/*.flo", FLOWS)]


def _find_root(name: str, root: str | os.PathLike) -> Path:
    if name not in SOURCES:
        raise DffError(f"there is no flow data set {name!r}: choose one of {', '.join(SOURCES)}.")
    title, inside = ("FlyingChairs", "data") if name == "flyingchairs" else ("Sintel", "training")
    advice = f"holds no folder {inside} ({title}): give the folder of the files of {SOURCES[name]}"
    return find_root(root, title, (title,), lambda folder: (folder / inside).is_dir(), advice)


def _chairs(folder: Path, split: str) -> list[Files]:
    listing = require(folder / LISTING, "which pairs train", f"download it from {SOURCES['flyingchairs']}")
    data = folder / "data"
    numbers = sorted({name.split("_")[0] for name in file_names(data, ".flo", ".ppm")})
    pairs = [(data / f"{n}_img1.ppm", data / f"{n}_img2.ppm", data / f"{n}_flow.flo") for n in numbers]
    _require_all(pairs)
    marks = listing.read_text("utf-8", "replace").split()
    if len(marks) != len(numbers) or not set(marks) <= set(MARKS.values()):
        raise DffError(
            f"{listing} should hold a 1 (train) or 2 (val) for each of the {len(numbers)} pairs in {data} but has "
            f"{len(marks)} entries: complete the copy from {SOURCES['flyingchairs']}."
        )
    return [pair for pair, mark in zip(pairs, marks, strict=True) if mark == MARKS[split]]


def _sintel(folder: Path, split: str) -> list[Files]:
    part, pairs = folder / "training", []
    require(part / "flow", "the flow of Sintel", f"get it from {SOURCES['sintel']}")
    scenes = sorted({scene for place in (*PASSES, "flow") for scene in file_names(part / place)})
    for number, scene in enumerate(scenes):
        if (number % HELD_OUT == 0) != (split == "val"):
            continue
        for kind in PASSES:
            images, flows = part / kind / scene, part / "flow" / scene
            firsts = {Path(name).stem for name in [*file_names(images, ".png")[:-1], *file_names(flows, ".flo")]}
            for first in sorted(firsts):
                second = re.sub(r"\d+", lambda digits: f"{int(digits[0]) + 1:0{len(digits[0])}d}", first)
                pairs.append((images / f"{first}.png", images / f"{second}.png", flows / f"{first}.flo"))
    _require_all(pairs)
    return pairs


def _require_all(pairs: list[Files]) -> None:
    """An error unless every file is there; each folder is listed once."""
    files = list(dict.fromkeys(file for pair in pairs for file in pair))
    folders = dict.fromkeys(file.parent for file in files)
    present = {folder: set(file_names(folder, ".png", ".ppm", ".flo")) for folder in folders}
    missing = [file for file in files if file.name not in present[file.parent]]
    if missing:
        raise DffError(
            f"{missing[0].parent} lacks {missing[0].name}, one of {len(missing)} files that others make a pair with: "
            f"complete the copy."
        )
