"""Cityscapes on made-up trees in the owners' layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dfflib.data import cityscapes
from dfflib.errors import DffError

# Typed from the owners' table (labels.py of cityscapesScripts): id -> trainId of the classes that count.
TRAIN_IDS = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
             28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
SIZE = (21, 43)


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), value, np.uint8)).save(path)


def tree(
    root: Path, snippets=(("val", "bochum", 0, 19), ("val", "bochum", 0, 49), ("val", "ulm", 7, 19)), singles=False
) -> Path:
    """Frames hold their own number as grey value; labels hold the ids 0..33 in a row each."""
    for split, city, sequence, labelled in snippets:
        name = f"{city}_{sequence:06d}"
        for n in [labelled] if singles else range(labelled - 19, labelled + 11):
            folder = "leftImg8bit" if singles else "leftImg8bit_sequence"
            picture(root / folder / split / city / f"{name}_{n:06d}_leftImg8bit.png", n)
        label = np.tile(np.arange(SIZE[1], dtype=np.uint8) % 34, (SIZE[0], 1))
        file = root / "gtFine" / split / city / f"{name}_{labelled:06d}_gtFine_labelIds.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(file)
        for other in ("color", "instanceIds"):  # lie beside the labels in a real copy
            (file.parent / f"{name}_{labelled:06d}_gtFine_{other}.png").write_bytes(b"not read")
    return root


def test_snippets_are_cut_around_their_labelled_frame(tmp_path):
    clips = cityscapes.clips(tree(tmp_path), "val")
    assert [clip.name for clip in clips] == ["bochum_000000_000019", "bochum_000000_000049", "ulm_000007_000019"]
    for clip, first in zip(clips, (0, 30, 0), strict=True):
        assert len(clip) == 30 and list(clip.labelled) == [19] and clip.fps == 17
        assert [int(frame[0, 0, 0]) for frame in clip.frames[[0, 19, 29]]] == [first, first + 19, first + 29]
    assert clips[0].size == SIZE and clips[0].class_names == cityscapes.CLASS_NAMES


def test_label_ids_become_the_19_training_classes(tmp_path):
    mask = cityscapes.clips(tree(tmp_path), "val")[0].masks[19]
    assert mask.dtype == torch.int64 and mask.shape == SIZE
    for x in range(SIZE[1]):
        assert (mask[:, x] == TRAIN_IDS.get(x % 34, 255)).all()
    assert len(cityscapes.CLASS_NAMES) == len(cityscapes.COLOURS) == 19


def test_masks_are_asked_for_at_the_labelled_frame_only(tmp_path):
    clip = cityscapes.clips(tree(tmp_path), "val")[0]
    with pytest.raises(DffError, match=r"has no annotation: ask for the frames in clip.labelled only"):
        clip.masks[3]


def test_single_images_make_clips_of_one_frame(tmp_path):
    (clip,) = cityscapes.clips(tree(tmp_path, (("train", "ulm", 2, 19),), singles=True), "train")
    assert (
        len(clip) == 1 and list(clip.labelled) == [0] and clip.masks[0].shape == SIZE and clip.frames[0][0, 0, 0] == 19
    )


def test_the_test_split_has_no_masks(tmp_path):
    (clip,) = cityscapes.clips(tree(tmp_path, (("test", "bonn", 1, 19),)), "test")
    assert clip.masks is None and len(clip.labelled) == 0 and len(clip) == 30


def test_one_city_only_and_the_folder_around(tmp_path):
    tree(tmp_path / "cityscapes")
    (clip,) = cityscapes.clips(tmp_path, "val", cities=["ulm"])
    assert clip.name.startswith("ulm")


def test_a_snippet_at_the_start_of_a_sequence_is_shorter(tmp_path):
    tree(tmp_path, (("val", "ulm", 7, 19),))
    for n in range(8):  # the label moves to frame 11, so that 8 of its 19 leading frames would have negative numbers
        (tmp_path / f"leftImg8bit_sequence/val/ulm/ulm_000007_{29 - n:06d}_leftImg8bit.png").unlink()
    label = tmp_path / "gtFine/val/ulm/ulm_000007_000019_gtFine_labelIds.png"
    label.rename(label.with_name("ulm_000007_000011_gtFine_labelIds.png"))
    (clip,) = cityscapes.clips(tmp_path, "val", cities="ulm")
    assert len(clip) == 22 and list(clip.labelled) == [11] and clip.masks[11].shape == SIZE


def test_files_that_other_systems_leave_do_not_count(tmp_path):
    tree(tmp_path)
    for folder in ("gtFine/val/ulm", "leftImg8bit_sequence/val/ulm"):
        for file in list((tmp_path / folder).iterdir()):
            file.with_name(f"._{file.name}").write_bytes(b"mac")
    assert len(cityscapes.clips(tmp_path, "val")) == 3
    assert {c.what: c.found for c in cityscapes.check(tmp_path)}["val frames (leftImg8bit_sequence/)"] == 90


def test_resizing(tmp_path):
    clip = cityscapes.clips(tree(tmp_path), "val", short_side=7)[0]
    assert clip.frames[0].shape == (3, 7, 14) and clip.masks[19].shape == (7, 14)
    assert set(clip.masks[19].unique().tolist()) <= {*range(19), 255}


def test_opening_reads_no_pixels(tmp_path):
    tree(tmp_path)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"damaged")
    clip = cityscapes.clips(tmp_path, "val")[0]
    for read in (lambda: clip.frames[0], lambda: clip.masks[19]):
        with pytest.raises(DffError, match="cannot be read as an image"):
            read()


def test_a_missing_frame_is_named(tmp_path):
    tree(tmp_path)
    (tmp_path / "leftImg8bit_sequence/val/bochum/bochum_000000_000012_leftImg8bit.png").unlink()
    with pytest.raises(DffError, match=r"bochum_000000_000012_leftImg8bit.png is missing \(1 frame of the snippet"):
        cityscapes.clips(tmp_path, "val")


@pytest.mark.parametrize(
    "remove, arguments, sentence",
    [
        (None, {"split": "train_extra"}, "no split 'train_extra': choose one of train, val, test"),
        (None, {"split": "val", "cities": ["rome"]}, "no city 'rome': choose from bochum, ulm"),
        (None, {"split": "train"}, "train is missing .the labels of Cityscapes train"),
        ("leftImg8bit_sequence", {"split": "val"}, "val is missing .the frames of Cityscapes val"),
        ("gtFine", {"split": "val"}, "val is missing .the labels of Cityscapes val"),
        ("gtFine/val/ulm", {"split": "val"}, "ulm is missing .the labels of ulm"),
        (
            "gtFine/val/bochum/bochum_000000_000049_gtFine_labelIds.png",
            {"split": "val"},
            r"bochum_000000_000030_leftImg8bit.png belongs to no label .* .30 frames do not",
        ),
    ],
)
def test_wrong_folders_are_one_sentence(tmp_path, remove, arguments, sentence):
    tree(tmp_path)
    if remove:
        (tmp_path / remove).rename(tmp_path / "gone")
    with pytest.raises(DffError, match=sentence):
        cityscapes.clips(tmp_path, **arguments)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(DffError, match="does not hold gtFine/ and leftImg8bit_sequence/"):
        cityscapes.clips(tmp_path)
    with pytest.raises(DffError, match="nowhere is missing"):
        cityscapes.clips(tmp_path / "nowhere")


def test_files_of_wrong_names_and_values_are_refused(tmp_path):
    tree(tmp_path)
    file = tmp_path / "gtFine/val/ulm/ulm_000007_000019_gtFine_labelIds.png"
    Image.fromarray(np.full(SIZE, 77, np.uint8)).save(file)
    with pytest.raises(DffError, match=r"ulm_000007_000019_gtFine_labelIds.png holds the value 77"):
        cityscapes.clips(tmp_path, "val", cities=["ulm"])[0].masks[19]
    file.rename(file.with_name("ulm_gtFine_labelIds.png"))
    with pytest.raises(DffError, match="is not named CITY_SSSSSS_FFFFFF"):
        cityscapes.clips(tmp_path, "val", cities=["ulm"])


def test_check_counts_beside_the_official_numbers(tmp_path):
    counts = {count.what: count for count in cityscapes.check(tree(tmp_path))}
    labels, frames = counts["val labels (gtFine/)"], counts["val frames (leftImg8bit_sequence/)"]
    assert (labels.found, labels.official, labels.complete) == (3, 500, False)
    assert (frames.found, frames.official, frames.complete) == (90, 15_000, False)
    assert counts["val frames (leftImg8bit/)"].complete and counts["test labels (gtFine/)"].complete  # not needed
    assert counts["train labels (gtFine/)"].official == 2975 and not counts["train labels (gtFine/)"].complete
