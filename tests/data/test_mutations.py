"""Files with flipped, lost and added bytes: every loader gives a correct result or one sentence, and no process ends."""

import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets._optical_flow import _read_16bits_png_with_flow_and_valid_mask as torchvision_reads

from dfflib.data import camvid, davis, imagenet_vid
from dfflib.data.optical_flow import FlowPairs
from dfflib.errors import DffError
from tests.data import test_camvid, test_davis, test_imagenet_vid, test_optical_flow
from tests.data.test_optical_flow import SIZE, constant, kitti, write_kitti_flow


def mutated(data: bytes, seed: int) -> bytes:
    """One to three faults: a flipped bit, another byte, a lost or doubled stretch, forty digits, the end cut off."""
    rng, data = random.Random(seed), bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at, kind = rng.randrange(len(data)), rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at : at + rng.randint(1, 20)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randint(1, 20)]
        elif kind == 4:
            data[at:at] = b"9" * 40
        else:
            del data[max(at, 1) :]
        data = data or bytearray(b"\0")
    return bytes(data)


def repaired(data: bytes) -> bytes:
    """A PNG file whose checksums are right again as far as its chunks go: damage that only a decoder can find."""
    data, place = bytearray(data), 8
    while place + 12 <= len(data):
        end = place + 8 + struct.unpack_from(">I", data, place)[0]
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)


def outcomes(
    file: Path, read, count: int, same=lambda one, other: one == other, repair: bool = False
) -> tuple[int, int]:
    """How many mutations were read, all to what the whole file says if ``same`` says so, and how many were refused."""
    whole, expected, read_well = file.read_bytes(), read(), 0
    for seed in range(count):
        data = mutated(whole, seed)
        file.write_bytes(repaired(data) if repair else data)
        try:
            found = read()
        except DffError as error:
            assert "\n" not in str(error) and str(error).endswith("."), (seed, error)
            continue
        read_well += 1
        assert same(found, expected), seed
    file.write_bytes(whole)
    return read_well, count - read_well


def equal(one, other):
    return all(torch.equal(one[part], other[part]) for part in other)


def kitti_flow(root: Path) -> None:
    """What the child process runs: 400 mutations as they are, and 200 with the checksums made right."""
    kitti(root)
    rng = np.random.default_rng(0)
    file = root / "KittiFlow/training/flow_occ/000000_10.png"
    write_kitti_flow(file, rng.integers(-512, 512, (2, *SIZE)) / 64, rng.random(SIZE) < 0.5)
    pairs = FlowPairs("kitti2015", root)
    assert outcomes(file, lambda: pairs[0], 400, equal)[1] > 300
    outcomes(file, lambda: pairs[0], 200, lambda *_: True, repair=True)


def test_kitti_flow_in_a_process_of_its_own(tmp_path):
    here = Path(__file__).parents[2]
    code = f"import sys, pathlib; sys.path.insert(0, {str(here)!r}); from tests.data import test_mutations as t;"
    code += "t.kitti_flow(pathlib.Path('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_kitti_flow_has_the_values_that_torchvision_reads(tmp_path):
    rng = np.random.default_rng(0)
    file = kitti(tmp_path) / "training/flow_occ/000000_10.png"
    write_kitti_flow(file, rng.integers(-(2**15), 2**15, (2, *SIZE)) / 64, rng.random(SIZE) < 0.5)
    flow, valid = torchvision_reads(str(file))
    found = FlowPairs("kitti2015", tmp_path).pairs._read_flow(str(file))
    assert np.array_equal(found[0], flow) and found[0].dtype == flow.dtype and np.array_equal(found[1], valid)


def test_flo_files_and_their_listing(tmp_path):
    folder = test_optical_flow.chairs(tmp_path)
    test_optical_flow.write_flo(folder / "data/00001_flow.flo", constant((1, 2)))
    pairs = FlowPairs("flyingchairs", tmp_path)
    # a .flo file has no checksum: any values may come out, but of the right shape and finite
    right = lambda found, expected: found["flow"].shape == expected["flow"].shape and found["flow"].isfinite().all()  # noqa: E731
    outcomes(folder / "data/00001_flow.flo", lambda: pairs[0], 100, right)
    outcomes(
        folder / "FlyingChairs_train_val.txt", lambda: len(FlowPairs("flyingchairs", tmp_path)), 30, lambda *_: True
    )


def test_label_images_and_lists_of_camvid(tmp_path):
    names = [f"0016E5_{n:05d}" for n in (1, 3, 5)]
    test_camvid.write(tmp_path, "val", names)
    read = lambda: camvid.clips(tmp_path, "val")[0].masks[0]  # noqa: E731
    for part in ("valannot", "val"):
        file = tmp_path / part / f"{names[0]}.png"
        ask = read if part == "valannot" else lambda: camvid.clips(tmp_path, "val")[0].frames[0]
        assert outcomes(file, ask, 80, torch.equal)[1] > 60
        outcomes(file, ask, 80, lambda found, whole: found.shape[-2:] == whole.shape[-2:], repair=True)
    outcomes(
        tmp_path / "val.txt", lambda: [clip.masks[:] for clip in camvid.clips(tmp_path, "val")], 80, lambda *_: True
    )


@pytest.mark.parametrize("year", [2016, 2017])
def test_masks_and_lists_of_davis(tmp_path, year):
    test_davis.sequence(tmp_path, "bear", year=year)
    test_davis.listing(tmp_path, str(year), "val", ["bear"])
    mask = next((tmp_path / "Annotations/480p/bear").iterdir())
    read = lambda: davis.clips(tmp_path, year)[0].masks[:]  # noqa: E731
    assert outcomes(mask, read, 60, torch.equal)[1] > 40
    outcomes(mask, read, 60, lambda found, whole: found.shape == whole.shape, repair=True)
    outcomes(tmp_path / f"ImageSets/{year}/val.txt", read, 60, lambda *_: True)


def test_annotations_and_lists_of_imagenet_vid(tmp_path):
    objects = "".join(
        f"<object><trackid>{n}</trackid><name>n02691156</name><bndbox><xmax>9</xmax><xmin>2</xmin><ymax>8</ymax>"
        f"<ymin>1</ymin></bndbox><occluded>0</occluded><generated>1</generated></object>" for n in (0, 1)
    )  # fmt: skip
    test_imagenet_vid.put(tmp_path, "VID/val/ILSVRC2015_val_00000000/000000", 1, "")
    file = tmp_path / "Annotations/VID/val/ILSVRC2015_val_00000000/000000.xml"
    height, width = test_imagenet_vid.SIZE
    text = f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"
    file.write_text(text, encoding="utf-8")
    clip = imagenet_vid.clips(tmp_path, "val")[0]

    def inside(found, _):
        x1, y1, x2, y2 = found.boxes.T
        return bool(((x1 >= 0) & (x1 < x2) & (x2 <= width) & (y1 >= 0) & (y1 < y2) & (y2 <= height)).all())

    outcomes(file, lambda: clip.boxes(0), 300, inside)
    for tag in ("xmax", "trackid", "width"):
        file.write_text(text.replace(f"<{tag}>", f"<{tag}>{'9' * 40}", 1), encoding="utf-8")
        with pytest.raises(DffError, match=f"{tag} is"):
            clip.boxes(0)
    listing = tmp_path / "ImageSets/VID_train_15frames.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("train/snippet 1 2 30\ntrain/other 1 3 40\n", encoding="utf-8")
    outcomes(listing, lambda: imagenet_vid.training_frames(tmp_path), 80, lambda *_: True)
