"""Files with flipped, lost and added bytes: every loader gives a correct result or one sentence, and no process ends."""

import random
import struct
import zlib
from pathlib import Path

import pytest
import torch

from dfflib.data import camvid, davis, imagenet_vid
from dfflib.data.optical_flow import FlowPairs, read_flo
from dfflib.errors import DffError
from tests.data import test_camvid, test_davis, test_imagenet_vid, test_optical_flow


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


def test_flo_files_and_their_listing(tmp_path):
    folder = test_optical_flow.chairs(tmp_path)
    file = folder / "data/00001_flow.flo"
    # a .flo file has no checksum: any values may come out, but of the right shape
    right = lambda found, expected: found.shape == expected.shape  # noqa: E731
    assert outcomes(file, lambda: read_flo(file), 100, right)[1] > 30
    outcomes(
        folder / "FlyingChairs_train_val.txt",
        lambda: len(FlowPairs("flyingchairs", tmp_path, "train", (20, 31))),
        30,
        lambda *_: True,
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
