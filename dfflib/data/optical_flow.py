"""Published optical flow in our convention: FlyingChairs, MPI Sintel, KITTI 2012 and 2015, read by torchvision.

These sets give two images and the flow **from the first to the second**: ``first(p) = second(p + flow(p))`` wherever
the content stays in view. Ours is ``current(p) = key(p + flow(p))`` (see `dfflib.warp`). So the **first image is our
current frame, the second one is our key frame**, and the published flow is our backward flow as it stands: no sign
changes. (The key frame is then the later of the two; a flow network sees a pair of images and no clock.)

Each copy lies in a folder of the name that torchvision insists on, in the layout that it reads:

    FlyingChairs/   FlyingChairs_train_val.txt  data/NNNNN_{img1.ppm,img2.ppm,flow.flo}
    Sintel/         {training,test}/{clean,final}/SCENE/frame_NNNN.png   training/flow/SCENE/frame_NNNN.flo
    KittiFlow/      {training,testing}/image_2/NNNNNN_{10,11}.png        training/flow_occ/NNNNNN_10.png

KITTI 2012 and 2015 would both be ``KittiFlow/``: keep them apart as, say, ``kitti2012/KittiFlow/`` and
``kitti2015/KittiFlow/``. The colour images of KITTI 2012 come as ``colored_0``: rename or link them to ``image_2``.
"""

import os
import re
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import FlyingChairs, KittiFlow, Sintel

from dfflib.data.checks import Count, require
from dfflib.data.label_files import DAMAGE, PNG, check_png, read_image
from dfflib.data.pairs import Batch, below, generator
from dfflib.data.video.reader import to_tensor
from dfflib.errors import DffError
from dfflib.warp import known


@dataclass(frozen=True)
class Published:
    """What is known of a set: its title, the folder that torchvision reads, its pairs by split, and where to get it."""

    title: str
    folder: str
    official: dict[str, int]
    source: str


SETS = {
    "flyingchairs": Published(
        "FlyingChairs", "FlyingChairs", {"train": 22_232, "val": 640},
        "https://lmb.informatik.uni-freiburg.de/resources/datasets/FlyingChairs.en.html",
    ),
    "sintel": Published("MPI Sintel", "Sintel", {"train": 1_041, "test": 552}, "http://sintel.is.tue.mpg.de"),
    "kitti2012": Published(
        "KITTI 2012", "KittiFlow", {"train": 194, "test": 195},
        "https://www.cvlibs.net/datasets/kitti/eval_stereo_flow.php?benchmark=flow",
    ),
    "kitti2015": Published(
        "KITTI 2015", "KittiFlow", {"train": 200, "test": 200},
        "https://www.cvlibs.net/datasets/kitti/eval_scene_flow.php?benchmark=flow",
    ),
}  # fmt: skip
"""The sets by name. Sintel's pairs are those of one pass."""

PASSES = {"clean": ("clean",), "final": ("final",), "both": ("clean", "final")}
SINTEL = {"train": ("training", 23, 1_064), "test": ("test", 12, 564)}  # folder, scenes, frames of a pass
OTHER_KITTI = {"kitti2012": "disp_occ_0", "kitti2015": "colored_0"}  # folders that the other year's download has
LISTING, MARKS = "FlyingChairs_train_val.txt", {"train": "1", "val": "2"}
Files = tuple[str, str, str | None]  # first image, second image, flow


class FlowPairs(Dataset):
    """Pairs with published flow: ``current`` is the first image, ``key`` the second, ``flow`` leads from the first on.

    An item is a dict of ``key`` and ``current``, uint8 ``(3, H, W)``; ``flow``, float32 ``(2, H, W)`` in pixels; and
    ``valid``, bool ``(H, W)``, True where the flow is known: everywhere in FlyingChairs, where it is finite in Sintel,
    at the measured points in KITTI. Elsewhere the flow is 0. The test parts of Sintel and KITTI hold two images only,
    since their flow is not published. KITTI's images differ in size by a few pixels.

    Args:
        name: ``flyingchairs``, ``sintel``, ``kitti2012`` or ``kitti2015``.
        root: the folder that torchvision reads (``FlyingChairs``, ``Sintel``, ``KittiFlow``), or the one around it.
        split: ``train``, and ``val`` of FlyingChairs or ``test`` of the others.
        crop: ``(height, width)`` that batches are cut to; items are whole.
        pass_name: rendering of Sintel: ``clean``, ``final`` or ``both``.
        flip: mirror half of the pairs of a batch.

    Raises:
        DffError: unknown name, split or pass; a folder that is missing or where files lack their partners; a crop
            larger than the first image. Another image smaller than the crop, and a damaged one, raise when read.
    """

    def __init__(
        self, name: str, root: str | os.PathLike, split: str = "train", crop: tuple[int, int] | None = None,
        pass_name: str = "clean", flip: bool = True,
    ):  # fmt: skip
        self.published, self.name, self.split, self.crop, self.flip = _known(name), name, split, crop, flip
        if split not in self.published.official:
            choice = ", ".join(self.published.official)
            raise DffError(f"{self.published.title} has no split {split!r}: choose one of {choice}.")
        if pass_name not in PASSES or (name != "sintel" and pass_name != "clean"):
            raise DffError(f"{self.published.title} has no pass {pass_name!r}: only Sintel has {', '.join(PASSES)}.")
        if crop is not None and min(crop) < 1:
            raise DffError(f"the crop is {crop[1]}x{crop[0]} pixels: choose 1 or more.")
        self.folder, self.remedy = _find(name, root), f"copy it again from {self.published.source}"
        try:
            self.files = _files(name, self.folder, split, PASSES[pass_name])
            if not self.files:
                raise DffError(f"{self.folder} holds no pair of the {split} split: {self.remedy}.")
            self.pairs = _open(name, self.folder.parent, split, pass_name)
        except DAMAGE as error:
            title = self.published.title
            raise DffError(f"{self.folder} is not {title} ({type(error).__name__}): {self.remedy}.") from error
        self.order = self._order()
        if crop is not None:  # the others are looked at when they are read
            self._require_room(self[0]["current"].shape[-2:], self.files[0][0])

    def _order(self) -> list[int]:
        """Where torchvision has each of our pairs: it lists scenes as the file system does.

        It also keeps images and flows in two lists, each cut short or shifted if a file is missing or surplus.
        """
        images, flows = self.pairs._image_list, self.pairs._flow_list or [None] * len(self.pairs)
        place = {(*pair, flow): n for n, (pair, flow) in enumerate(zip(images, flows, strict=False))}
        if len(images) != len(flows) or place.keys() != set(self.files):
            known = {file for pair in self.files for file in pair}
            extra = sorted({file for pair in (*images, flows) for file in pair if file} - known)
            which = extra[0] if extra else f"a file in {self.folder}"
            raise DffError(f"{which} is not part of any pair: complete the copy from {self.published.source}.")
        return [place[pair] for pair in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        index = int(index) % len(self)
        try:
            first, second, flow, *mask = self.pairs[self.order[index]]
        except DAMAGE as error:
            file = _damaged(self.files[index])
            raise DffError(f"{file} cannot be read ({type(error).__name__}): {self.remedy}.") from error
        item = {"key": to_tensor(np.asarray(second)), "current": to_tensor(np.asarray(first))}
        if flow is not None:
            flow = torch.from_numpy(np.ascontiguousarray(flow))
            item["valid"] = torch.from_numpy(mask[0]) if mask else known(flow)[0]
            item["flow"] = torch.where(item["valid"], flow, 0)
        self._check(item, self.files[index])
        return item

    def batch(self, size: int, seed: int, step: int) -> Batch:
        """The batch of a training step, a pure function of the three arguments (see `dfflib.data.pairs`).

        Raises:
            DffError: no crop was chosen, or an image is smaller than it.
        """
        if self.crop is None or size < 1:
            raise DffError(f"a batch of {size} pairs with crop={self.crop}: choose 1 pair or more and give a crop.")
        rng = generator(seed, step)
        samples = [self._sample(rng) for _ in range(size)]
        parts = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        valid = parts["valid"][:, None] if "valid" in parts else None
        return Batch(parts["key"] / 255, parts["current"] / 255, flow=parts.get("flow"), valid=valid)

    def _sample(self, rng: torch.Generator) -> dict[str, Tensor]:
        index = below(len(self), rng)
        item = self[index]
        size = tuple(item["current"].shape[-2:])
        self._require_room(size, self.files[index][0])
        top, left = (below(side - crop + 1, rng) for side, crop in zip(size, self.crop))
        item = {name: part[..., top : top + self.crop[0], left : left + self.crop[1]] for name, part in item.items()}
        if self.flip and below(2, rng):
            item = {name: part.flip(-1) for name, part in item.items()}
            if "flow" in item:
                item["flow"][0] *= -1  # what moved right moves left in a mirror
        return item

    def _require_room(self, size: tuple[int, int], file: str) -> None:
        if size[0] < self.crop[0] or size[1] < self.crop[1]:
            raise DffError(
                f"{file} has {size[1]}x{size[0]} pixels, less than the training crop of {self.crop[1]}x{self.crop[0]}: "
                f"choose a smaller crop."
            )

    def _check(self, item: dict[str, Tensor], files: Files) -> None:
        """All of one size."""
        height, width = item["current"].shape[-2:]
        for part, file in (("key", files[1]), ("flow", files[2])):
            if part in item and item[part].shape[-2:] != (height, width):
                found = "x".join(str(n) for n in reversed(item[part].shape[-2:]))
                raise DffError(f"{file} has {found} pixels but {files[0]} has {width}x{height}: {self.remedy}.")


def check(name: str, root: str | os.PathLike) -> list[Count]:
    """What a copy holds beside the official numbers. Nothing but file names (and FlyingChairs' list of splits) is read.

    Raises:
        DffError: no such set, or no folder of it there.
    """
    published, folder = _known(name), _find(name, root)

    def count(what: str, pattern: str, official: int, needed: bool = True) -> Count:
        """How many files of one kind there are, beside the official number."""
        found = sum(not path.name.startswith(".") for path in folder.glob(pattern))
        return Count(f"{what} ({pattern})", found, official, f"get them from {published.source}", needed)

    if name == "flyingchairs":
        total = sum(published.official.values())
        parts = (("first images", "img1.ppm"), ("second images", "img2.ppm"), ("flow fields", "flow.flo"))
        counts = [count(what, f"data/*_{ending}", total) for what, ending in parts]
        words = (folder / LISTING).read_text("utf-8", "replace").split() if (folder / LISTING).is_file() else []
        for split, official in published.official.items():
            note = f"get {LISTING} from {published.source}"
            counts.append(Count(f"{split} pairs listed ({LISTING})", words.count(MARKS[split]), official, note))
        return counts
    counts, needed = [], True
    for split, official in published.official.items():
        if name == "sintel":
            part, scenes, frames = SINTEL[split]
            for kind in PASSES["both"]:
                counts.append(count(f"{split} scenes, {kind}", f"{part}/{kind}/*/", scenes, needed))
                counts.append(count(f"{split} frames, {kind}", f"{part}/{kind}/*/*.png", frames, needed))
        else:
            part = f"{split}ing"
            counts.append(count(f"{split} first images", f"{part}/image_2/*_10.png", official, needed))
            counts.append(count(f"{split} second images", f"{part}/image_2/*_11.png", official, needed))
        if needed:
            pattern = "training/flow/*/*.flo" if name == "sintel" else "training/flow_occ/*_10.png"
            counts.append(count(f"{split} flow fields", pattern, official))
        needed = False  # no flow is published for the test parts
    return counts


def _known(name: str) -> Published:
    if name not in SETS:
        raise DffError(f"there is no flow data set {name!r}: choose one of {', '.join(SETS)}.")
    return SETS[name]


def _find(name: str, root: str | os.PathLike) -> Path:
    """The folder of the set, under the name that torchvision insists on."""
    published = SETS[name]
    root = require(Path(os.path.abspath(Path(root).expanduser())), f"the folder of {published.title}", "check the path")
    folder = next((f for f in (root / published.folder, root) if f.name == published.folder and f.is_dir()), None)
    if folder is None:
        raise DffError(
            f"{root} holds no folder {published.folder} ({published.title} in the layout of torchvision): put the "
            f"files of {published.source} into a folder of that name, or link it there."
        )
    if escape(str(folder)) != str(folder):
        raise DffError(
            f"{folder} has one of *?[ in its path, a pattern to torchvision: rename that or link the folder."
        )
    for part in (folder / "training", folder / "testing"):
        other = OTHER_KITTI.get(name)
        if other and (part / other).exists():
            raise DffError(f"{part} is not of {published.title} (the other KITTI has {other}): give the right folder.")
        if (part / "colored_0").is_dir() and not (part / "image_2").exists():
            raise DffError(f"{part} has its colour images in colored_0: rename or link that folder to image_2.")
    return folder


def _open(name: str, parent: Path, split: str, pass_name: str) -> FlyingChairs | Sintel | KittiFlow:
    if name == "flyingchairs":
        pairs = FlyingChairs(parent, split)
    else:
        pairs = Sintel(parent, split, pass_name) if name == "sintel" else _Kitti(parent, split)
    pairs._loader = _image
    return pairs


def _image(file: str) -> Image.Image:
    return read_image(file).convert("RGB")


class _Kitti(KittiFlow):
    """KITTI with another reader of its flow: one flipped bit in a file ends the process that runs torchvision's."""

    def _read_flow(self, file_name: str) -> tuple[np.ndarray, np.ndarray]:
        """Flow ``(2, H, W)`` in pixels and where it was measured, from 16 bits of 64 u + 2^15, 64 v + 2^15 and valid."""
        check_png(data := Path(file_name).read_bytes())
        if not data.startswith(PNG):
            raise ValueError("no PNG file")
        if data[24] != 16:  # in the header; of 8 bits, motion of 500 pixels would be made
            raise DffError(f"{file_name} has {data[24]} bits per value, but KITTI's flow has 16: copy it again.")
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is None or values.ndim != 3 or values.shape[2] != 3:
            raise ValueError("not three numbers a pixel")
        valid, flow = values[..., 0] > 0, values[..., :0:-1].transpose(2, 0, 1)  # OpenCV turns the order round
        return (flow.astype(np.float32) - 2**15) / 64, valid


def _files(name: str, folder: Path, split: str, passes: tuple[str, ...]) -> list[Files]:
    """The pairs that a folder should hold by the names of its files, in order; all of their files exist."""
    if name == "flyingchairs":
        return _chairs_files(folder, split)
    if name == "sintel":
        return [pair for kind in passes for pair in _sintel_files(folder, split, kind)]
    return _kitti_files(name, folder, split)


def _chairs_files(folder: Path, split: str) -> list[Files]:
    listing = require(folder / LISTING, "which pairs train", f"download it from {SETS['flyingchairs'].source}")
    data = folder / "data"
    names = _names(data, ".flo", ".ppm")
    numbers = sorted({name.split("_")[0] for name in names})
    pairs = [tuple(str(data / f"{n}_{part}") for part in ("img1.ppm", "img2.ppm", "flow.flo")) for n in numbers]
    _require_all(pairs)
    if len(names) > 3 * len(pairs):  # it would shift all that follow: torchvision takes every third file
        extra = set(names) - {os.path.basename(file) for pair in pairs for file in pair}
        raise DffError(f"{data / min(extra)} is not part of any pair: remove it.")
    marks = listing.read_text("utf-8", "replace").split()
    if len(marks) != len(numbers) or not set(marks) <= set(MARKS.values()):
        raise DffError(
            f"{listing} should hold a 1 (train) or 2 (val) for each of the {len(numbers)} pairs in {data} but has "
            f"{len(marks)} entries: complete the copy from {SETS['flyingchairs'].source}."
        )
    return [pair for pair, mark in zip(pairs, marks, strict=True) if mark == MARKS[split]]


def _sintel_files(folder: Path, split: str, kind: str) -> list[Files]:
    images, flows, pairs = folder / SINTEL[split][0] / kind, folder / "training" / "flow", []
    scenes = {scene for place in (images, flows)[: 1 + (split == "train")] for scene in _names(place, "")}
    for scene in sorted(scenes):
        frames = _names(images / scene, ".png")
        if len(frames) < 2:
            raise DffError(f"{images / scene} holds less than two frames: copy it again from {SETS['sintel'].source}.")
        for frame in frames[:-1]:
            following = re.sub(r"\d+(?=\.png$)", lambda digits: f"{int(digits[0]) + 1:0{len(digits[0])}d}", frame)
            flow = str(flows / scene / frame.replace(".png", ".flo")) if split == "train" else None
            pairs.append((str(images / scene / frame), str(images / scene / following), flow))
    _require_all(pairs)
    return pairs


def _kitti_files(name: str, folder: Path, split: str) -> list[Files]:
    images, flows = (folder / f"{split}ing" / part for part in ("image_2", "flow_occ"))
    firsts = {file[:-7] for file in _names(images, "_10.png", "_11.png")}
    if split == "train":
        firsts |= {file[:-7] for file in _names(flows, "_10.png")}
    if len(firsts) > SETS[name].official[split]:
        raise DffError(
            f"{images} holds {len(firsts)} pairs but {SETS[name].title} has {SETS[name].official[split]}: give the "
            f"folder of that year from {SETS[name].source}."
        )
    pairs = []
    for n in sorted(firsts):
        flow = str(flows / f"{n}_10.png") if split == "train" else None
        pairs.append((str(images / f"{n}_10.png"), str(images / f"{n}_11.png"), flow))
    _require_all(pairs)
    return pairs


def _names(folder: Path, *endings: str) -> list[str]:
    """Names in a folder with one of these endings, sorted, none hidden; an empty ending asks for the folders in it."""
    require(folder, "a folder of the set's own layout", "complete the copy")
    names = (entry.name for entry in os.scandir(folder) if endings != ("",) or entry.is_dir())
    return sorted(name for name in names if name.endswith(endings) and not name.startswith("."))


def _require_all(pairs: list[Files]) -> None:
    files = dict.fromkeys(file for pair in pairs for file in pair if file)
    for folder in dict.fromkeys(os.path.dirname(file) for file in files):
        present = set(_names(Path(folder), ".png", ".ppm", ".flo"))
        missing = [f for f in files if os.path.dirname(f) == folder and os.path.basename(f) not in present]
        if missing:
            raise DffError(
                f"{folder} lacks {len(missing)} files that others make a pair with, the first "
                f"{os.path.basename(missing[0])}: complete the copy."
            )


def _damaged(files: Files) -> str:
    """The file of a pair that could not be read."""
    for file in files[:2]:
        try:
            read_image(file)
        except DffError:
            return file
    return str(files[2])
