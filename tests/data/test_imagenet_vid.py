"""ImageNet VID on made-up trees in the owners' layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dfflib.data import imagenet_vid
from dfflib.errors import DffError

SIZE = (30, 50)  # height, width
DOG, ZEBRA, BURRITO = "n02084071", "n02391049", "n07880968"  # the last one is a class of DET alone


def annotation(objects, size=SIZE) -> str:
    body = "".join(
        f"<object>{f'<trackid>{track}</trackid>' if track is not None else ''}<name>{name}</name><bndbox><xmax>{x2}</xmax>"
        f"<xmin>{x1}</xmin><ymax>{y2}</ymax><ymin>{y1}</ymin></bndbox>"
        f"{f'<occluded>{occluded}</occluded><generated>{generated}</generated>' if track is not None else ''}</object>"
        for name, (x1, y1, x2, y2), track, occluded, generated in objects
    )
    return f"<annotation><folder>f</folder><size><width>{size[1]}</width><height>{size[0]}</height></size>{body}</annotation>"


def put(root: Path, item: str, value: int, objects=None) -> None:
    image = root / "Data" / f"{item}.JPEG"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), value, np.uint8)).save(image, quality=95)
    if objects is not None:
        file = root / "Annotations" / f"{item}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(annotation(objects), encoding="utf-8")


@pytest.fixture
def root(tmp_path) -> Path:
    objects = [(DOG, (3, 4, 12, 20), 0, 0, 1), (ZEBRA, (-2, 0, 50, 29), 5, 1, 0), (BURRITO, (0, 0, 5, 5), 7, 0, 0)]
    for n in range(4):
        put(tmp_path, f"VID/val/ILSVRC2015_val_00000000/{n:06d}", 40 * n, objects[: n + 1] if n < 3 else [])
        put(tmp_path, f"VID/train/ILSVRC2015_VID_train_0001/ILSVRC2015_train_00001000/{n:06d}", n, objects[:1])
        put(tmp_path, f"VID/test/ILSVRC2015_test_00000000/{n:06d}", n)
    put(tmp_path, "VID/val/ILSVRC2015_val_00000001/000000", 9, objects)
    put(
        tmp_path,
        "DET/train/ILSVRC2013_train/n1/n1_5",
        7,
        [(DOG, (1, 1, 8, 8), None, 0, 0), (BURRITO, (0, 0, 3, 3), None, 0, 0)],
    )
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "DET_train_30classes.txt").write_text(
        "train/ILSVRC2013_train/n1/n1_5 1\n", encoding="utf-8"
    )
    return tmp_path


def test_snippets_and_their_frames(root):
    clips = imagenet_vid.clips(root, "val")
    assert [clip.name for clip in clips] == ["ILSVRC2015_val_00000000", "ILSVRC2015_val_00000001"]
    assert [len(clip) for clip in clips] == [4, 1] and clips[0].size == SIZE
    assert [abs(int(clips[0].frames[n][0, 5, 5]) - 40 * n) <= 1 for n in range(4)] == [True] * 4
    assert clips[0].masks is None and clips[0].has_boxes and clips[0].num_classes == 31


def test_train_snippets_lie_a_folder_deeper_and_parents_are_accepted(root):
    (clip,) = imagenet_vid.clips(root, "train")
    assert clip.name == "ILSVRC2015_train_00001000" and len(clip) == 4 and len(clip.boxes(2)) == 1
    around = root.parent / "around"
    around.mkdir()
    root.rename(around / "ILSVRC2015")
    assert len(imagenet_vid.clips(around, "val", names=["ILSVRC2015_val_00000001"])) == 1


def test_boxes_are_half_open_and_cut_off_at_the_edge(root):
    boxes = imagenet_vid.clips(root, "val")[0].boxes(1)
    assert boxes.boxes.tolist() == [[3, 4, 13, 21], [0, 0, 50, 30]]
    assert [imagenet_vid.CLASS_NAMES[label] for label in boxes.labels] == ["dog", "zebra"]
    assert boxes.tracks.tolist() == [0, 5]
    assert boxes.occluded.tolist() == [False, True] and boxes.generated.tolist() == [True, False]


def test_frames_without_objects_and_foreign_classes(root):
    clip = imagenet_vid.clips(root, "val")[0]
    assert len(clip.boxes(3)) == 0 and clip.boxes(3).boxes.shape == (0, 4)
    assert len(clip.boxes(2)) == 2  # the burrito is none of VID's classes


def test_boxes_scale_with_the_frame(root):
    clip = imagenet_vid.clips(root, "val", short_side=15)[0]
    assert clip.size == (15, 25)
    torch.testing.assert_close(clip.boxes(0).boxes, torch.tensor([[1.5, 2.0, 6.5, 10.5]]))


def test_the_test_split_has_no_boxes(root):
    (clip,) = imagenet_vid.clips(root, "test")
    assert not clip.has_boxes and len(clip) == 4


def test_still_images(root):
    (still,) = imagenet_vid.still_images(root)
    boxes = still.boxes(0)
    assert (
        len(still) == 1 and boxes.boxes.tolist() == [[1, 1, 9, 9]] and boxes.occluded is None and len(boxes.tracks) == 1
    )


def test_training_frames_from_the_list_or_evenly_spaced(root):
    name = "ILSVRC2015_train_00001000"
    assert imagenet_vid.training_frames(root) == [(name, n) for n in range(4)]
    (root / "Data/VID/train/val").mkdir()  # as some copies have it; no training data
    put(root, "VID/train/val/ILSVRC2015_val_00000000/000000", 1)
    for n in range(4, 48):
        (root / f"Data/VID/train/ILSVRC2015_VID_train_0001/{name}/{n:06d}.JPEG").touch()
    # the authors' list has these frames for a snippet of 48
    expected = [1, 4, 8, 11, 14, 17, 20, 24, 27, 30, 33, 36, 40, 43, 46]
    assert imagenet_vid.training_frames(root) == [(name, n) for n in expected]
    listing = root / "ImageSets" / "VID_train_15frames.txt"
    listing.write_text(f"train/ILSVRC2015_VID_train_0001/{name} 1 10 300\ntrain/x/{name} 1 30 300\n", encoding="utf-8")
    assert imagenet_vid.training_frames(root) == [(name, 10), (name, 30)]
    for line in ("train/x 1", "train/x 1 400 300", "train/x 1 a 300"):
        listing.write_text(f"{line}\n", encoding="utf-8")
        with pytest.raises(DffError, match=f"VID_train_15frames.txt, line 1 is '{line}', not SNIPPET"):
            imagenet_vid.training_frames(root)


def test_opening_reads_no_pixels_and_no_xml(root):
    for path in [*root.rglob("*.JPEG"), *root.rglob("*.xml")]:
        path.write_bytes(b"damaged")
    clip = imagenet_vid.clips(root, "val")[0]
    with pytest.raises(DffError, match=r"000002.JPEG cannot be read as an image"):
        clip.frames[2]
    with pytest.raises(DffError, match=r"000002.xml is no annotation of ImageNet"):
        clip.boxes(2)


def test_incomplete_annotations_are_one_sentence(root):
    clip = imagenet_vid.clips(root, "val")[0]
    file = root / "Annotations/VID/val/ILSVRC2015_val_00000000/000001.xml"
    file.write_text("<annotation><object><name>n02084071</name></object></annotation>", encoding="utf-8")
    with pytest.raises(DffError, match=r"000001.xml is no annotation"):
        clip.boxes(1)
    file.unlink()
    with pytest.raises(DffError, match=r"000001.xml is missing .the boxes of a frame"):
        clip.boxes(1)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            lambda text: text.replace("<width>50", "<width>51"),
            "000001.xml has 51x30 pixels but .*000001.JPEG has 50x30",
        ),
        (lambda text: text.replace("<width>50", "<width>0"), "000001.xml is no annotation|000001.xml has 0x30"),
        (lambda text: text.replace("<xmin>3<", "<xmin>70<"), "lies outside the frame of 50x30"),
        (lambda text: text.replace("<name>n02084071</name>", ""), "000001.xml is no annotation"),
    ],
)
def test_wrong_annotations_are_one_sentence(root, change, sentence):
    file = root / "Annotations/VID/val/ILSVRC2015_val_00000000/000001.xml"
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(DffError, match=sentence):
        imagenet_vid.clips(root, "val", names="ILSVRC2015_val_00000000")[0].boxes(1)


def test_a_missing_frame_is_named(root):
    (root / "Data/VID/val/ILSVRC2015_val_00000000/000001.JPEG").unlink()
    with pytest.raises(DffError, match=r"000001.JPEG is missing from a snippet of 3 frames"):
        imagenet_vid.clips(root, "val")


def test_a_still_image_without_objects_of_vid_and_a_missing_one(root):
    listing = root / "ImageSets/DET_train_30classes.txt"
    put(root, "DET/train/ILSVRC2013_train/n1/n1_6", 7, [(BURRITO, (0, 0, 3, 3), None, 0, 0)])
    listing.write_text("train/ILSVRC2013_train/n1/n1_6 1\n", encoding="utf-8")
    boxes = imagenet_vid.still_images(root)[0].boxes(0)
    assert len(boxes) == 0 and boxes.occluded is None
    listing.write_text("train/ILSVRC2013_train/n1/n1_6 1\ntrain/ILSVRC2013_train/n2/n2_1 2\n", encoding="utf-8")
    with pytest.raises(DffError, match=r"n2_1.JPEG is missing, one of 1 that DET_train_30classes.txt names"):
        imagenet_vid.still_images(root)


@pytest.mark.parametrize(
    "remove, arguments, sentence",
    [
        (None, {"split": "trainval"}, "no split 'trainval': choose one of train, val, test"),
        (None, {"split": "val", "names": ["x"]}, "has no snippet 'x': choose one of its 2 folders"),
        ("Data/VID/train", {"split": "train"}, "train is missing .ImageNet VID train"),
        ("Annotations/VID/val", {"split": "val"}, "is missing .the boxes of a snippet"),
        ("Data/VID", {"split": "val"}, "does not hold Data/VID/"),
    ],
)
def test_wrong_folders_are_one_sentence(root, remove, arguments, sentence):
    if remove:
        (root / remove).rename(root / "gone")
    with pytest.raises(DffError, match=sentence):
        imagenet_vid.clips(root, **arguments)


def test_missing_lists_and_stills(root):
    (root / "Data/DET").rename(root / "gone")
    with pytest.raises(DffError, match=r"train is missing .the still images of DET"):
        imagenet_vid.still_images(root)
    (root / "ImageSets/DET_train_30classes.txt").unlink()
    with pytest.raises(DffError, match=r"DET_train_30classes.txt is missing"):
        imagenet_vid.still_images(root)


def test_check_counts_beside_the_official_numbers(root):
    counts = {count.what: count for count in imagenet_vid.check(root)}
    frames = counts["VID val frames (Data/VID/val/)"]
    assert (frames.found, frames.official, frames.complete) == (5, 176_126, False)
    assert counts["VID val annotations (Annotations/VID/val/)"].found == 5
    assert counts["VID train snippets (Data/VID/train/)"].official == 3862
    assert counts["VID test frames (Data/VID/test/)"].complete  # not needed
    assert counts["lines of ImageSets/DET_train_30classes.txt"].found == 1


def test_classes_agree():
    assert len(imagenet_vid.CLASS_NAMES) == len(imagenet_vid.WORDNET_IDS) == 31
    assert len(set(imagenet_vid.WORDNET_IDS)) == 31
