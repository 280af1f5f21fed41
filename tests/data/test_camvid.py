"""CamVid in SegNet's layout: clips are cut where the video is, labels are right, wrong folders have their sentence."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from dfflib.data import camvid
from dfflib.data.label_files import resize_labels
from dfflib.errors import DffError

SIZE = (45, 61)  # odd, and not the real one
HZ15 = [f"0016E5_{n:05d}" for n in range(7959, 7970, 2)]


def labels_of(name: str, size=SIZE) -> np.ndarray:
    """Labels 0 to 11 that differ from file to file."""
    return np.random.default_rng(int(name[-4:])).integers(0, 12, size, dtype=np.uint8)


def write(root, split: str, names: list[str], palette: bool = False, listing: bool = True) -> None:
    """A split in the official layout."""
    for folder in (split, f"{split}annot"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        colours = np.random.default_rng(int(name[-4:])).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(colours).save(root / split / f"{name}.png")
        image = Image.fromarray(labels_of(name))
        if palette:
            image.putpalette(camvid.COLOURS.tobytes())
        image.save(root / f"{split}annot" / f"{name}.png")
    if listing:
        lines = [f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n" for name in names]
        (root / f"{split}.txt").write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def val(tmp_path):
    write(tmp_path, "val", HZ15)
    return tmp_path


@pytest.mark.parametrize("palette", [False, True], ids=["grey", "palette"])
def test_frames_and_masks_are_the_files(tmp_path, palette):
    write(tmp_path, "val", HZ15, palette)
    (clip,) = camvid.clips(tmp_path, "val")
    assert (clip.name, clip.fps, len(clip), clip.size) == ("0016E5_07959", 15.0, 6, SIZE)
    assert clip.class_names == camvid.CLASS_NAMES and list(clip.labelled) == list(range(6))
    assert clip.frames[3].dtype == torch.uint8 and clip.masks[3].dtype == torch.int64
    for i, name in enumerate(HZ15):
        assert np.array_equal(clip.frames[i].permute(1, 2, 0), np.asarray(Image.open(tmp_path / f"val/{name}.png")))
        truth = labels_of(name)
        assert np.array_equal(clip.masks[i], np.where(truth == 11, 255, truth))
    assert clip.masks[:].shape == (6, *SIZE) and clip.frames[[4, 0]].shape == (2, 3, *SIZE)


def test_clips_are_cut_at_sequences_gaps_and_changes_of_step(tmp_path):
    names = [f"0001TP_{n:06d}" for n in (6690, 6720, 6750)] + [f"Seq05VD_f{n:05d}" for n in (0, 30)]
    late = [f"0016E5_{n:05d}" for n in (840, 870, 901, 930, 960)]  # as in the real list
    rest = [f"0016E5_{n:05d}" for n in (4350, 4380, 7920, 7959, 7961, 7963, 8190)]
    write(tmp_path, "train", rest + names + late)
    found = {clip.name: (len(clip), clip.fps) for clip in camvid.clips(tmp_path)}
    assert found == {
        "0001TP_006690": (3, 1.0),
        "0016E5_00840": (5, 1.0),
        "0016E5_04350": (2, 1.0),
        "0016E5_07920": (1, 30.0),
        "0016E5_07959": (3, 15.0),
        "0016E5_08190": (1, 30.0),
        "Seq05VD_f00000": (2, 1.0),
    }


def test_a_folder_without_lists_and_a_folder_around_it(tmp_path):
    write(tmp_path / "SegNet" / "CamVid", "val", HZ15, listing=False)
    (tmp_path / "SegNet" / "CamVid" / "val" / "._0016E5_07959.png").write_bytes(b"left by macOS")
    for root in (tmp_path, tmp_path / "SegNet", tmp_path / "SegNet" / "CamVid", str(tmp_path)):
        assert [len(clip) for clip in camvid.clips(root, "val")] == [6]


def test_a_list_on_one_line_with_a_byte_order_mark(val):
    words = (val / "val.txt").read_text(encoding="utf-8").split()
    (val / "val.txt").write_text("\ufeff" + " ".join(words) + " \r\n", encoding="utf-8")
    assert len(camvid.clips(val, "val")[0]) == 6


def test_resizing_takes_labels_at_pixel_centres(val):
    (clip,), (whole,) = camvid.clips(val, "val", short_side=15), camvid.clips(val, "val")
    assert clip.size == (15, 20) and clip.masks[2].shape == (15, 20)
    assert torch.equal(clip.masks[2], whole.masks[2][1::3, [int((i + 0.5) * 61 / 20) for i in range(20)]])
    assert torch.equal(camvid.clips(val, "val", 45)[0].masks[1], whole.masks[1])
    assert resize_labels(np.array([[1, 2]]), (2, 6)).tolist() == [[1, 1, 1, 2, 2, 2]] * 2
    with pytest.raises(DffError, match="cannot be 0 pixels"):
        camvid.clips(val, "val", 0)


def test_opening_reads_no_pixels_and_damage_raises_when_read(val):
    (val / "val" / f"{HZ15[1]}.png").write_bytes(b"not an image")
    whole = (val / "valannot" / f"{HZ15[2]}.png").read_bytes()
    (val / "valannot" / f"{HZ15[2]}.png").write_bytes(whole[: len(whole) // 2])
    (clip,) = camvid.clips(val, "val")
    clip.frames[0], clip.frames[2:], clip.masks[3]
    with pytest.raises(DffError, match=f"{HZ15[1]}.png cannot be read as an image: replace"):
        clip.frames[1]
    with pytest.raises(DffError, match=f"valannot.{HZ15[2]}.png cannot be read as an image: replace"):
        clip.masks[2]


def test_windows_memory_and_pickles(val):
    (clip,) = camvid.clips(val, "val")
    part = clip.window(2, 5)
    assert torch.equal(part.masks[0], clip.masks[2]) and list(part.labelled) == [0, 1, 2] and part.fps == 15
    kept = clip.in_memory()
    assert torch.is_tensor(kept.frames) and torch.equal(kept.frames[4], clip.frames[4])
    again = pickle.loads(pickle.dumps(clip.masks))  # for the workers of a DataLoader
    assert torch.equal(again[5], clip.masks[5])


@pytest.mark.parametrize(
    "pixel, message",
    [(12, "holds the label 12, but CamVid has 11 classes"), (254, "holds the label 254")],
)
def test_a_label_that_is_no_class(val, pixel, message):
    file = val / "valannot" / f"{HZ15[0]}.png"
    Image.fromarray(np.full(SIZE, pixel, np.uint8)).save(file)
    with pytest.raises(DffError, match=message) as caught:
        camvid.clips(val, "val")[0].masks[0]
    assert str(file) in str(caught.value)


def test_ignored_pixels_may_be_255_already(val):
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(val / "valannot" / f"{HZ15[0]}.png")
    assert (camvid.clips(val, "val")[0].masks[0] == 255).all()


def test_a_colour_annotation(val):
    colours = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(colours).save(val / "valannot" / f"{HZ15[0]}.png")
    with pytest.raises(DffError, match="is a colour image: give annotations as grey or palette PNG"):
        camvid.clips(val, "val")[0].masks[0]
    grey = np.repeat(labels_of(HZ15[0])[..., None], 3, axis=2)  # an editor's grey
    Image.fromarray(grey).save(val / "valannot" / f"{HZ15[0]}.png")
    assert camvid.clips(val, "val")[0].masks[0].shape == SIZE


def test_sizes_that_differ(val):
    Image.fromarray(labels_of(HZ15[0], (44, 61))).save(val / "valannot" / f"{HZ15[0]}.png")
    Image.new("RGB", (60, 45)).save(val / "val" / f"{HZ15[3]}.png")
    (clip,) = camvid.clips(val, "val")
    with pytest.raises(DffError, match=r"valannot.*61x44 pixels but .*61x45"):
        clip.masks[0]
    with pytest.raises(DffError, match=r"60x45 pixels but .*61x45"):
        clip.frames[:]


def test_missing_files(val):
    (val / "valannot" / f"{HZ15[4]}.png").unlink()
    with pytest.raises(DffError, match=f"valannot lacks 1 of the annotations of CamVid val, the first {HZ15[4]}.png"):
        camvid.clips(val, "val")
    (val / "val.txt").unlink()
    with pytest.raises(DffError, match="valannot lacks 1 of the annotations"):
        camvid.clips(val, "val")
    write(val, "val", HZ15)
    (val / "val" / f"{HZ15[0]}.png").unlink()
    with pytest.raises(DffError, match="val lacks 1 of the images of CamVid val"):
        camvid.clips(val, "val")


def test_wrong_folders(val, tmp_path_factory):
    with pytest.raises(DffError, match="no split 'validation': choose one of train, val, test"):
        camvid.clips(val, "validation")
    with pytest.raises(DffError, match=r"train is missing .the images of CamVid train.: copy it from"):
        camvid.clips(val, "train")
    with pytest.raises(DffError, match=r"nowhere is missing .the folder of CamVid.: check the path"):
        camvid.clips(val / "nowhere", "val")
    other = tmp_path_factory.mktemp("other")
    with pytest.raises(DffError, match=r"holds no train/ or train.txt .CamVid in SegNet's layout.: give"):
        camvid.clips(other)
    (other / "701_StillsRaw_full").mkdir()
    with pytest.raises(DffError, match="as first published, but SegNet's layout is expected"):
        camvid.check(other)
    (other / "train").mkdir()
    with pytest.raises(DffError, match="train holds no images"):
        camvid.clips(other)


@pytest.mark.parametrize("text", ["", "/SegNet/CamVid/val/a.png\n", "\x00\x01"])
def test_a_list_that_is_none(val, text):
    (val / "val.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DffError, match=r"val.txt does not hold an image and an annotation a line: copy it"):
        camvid.clips(val, "val")


def test_names_without_frame_numbers(tmp_path):
    write(tmp_path, "test", ["test_00001", "test_00002"])  # an early release of SegNet's copy
    with pytest.raises(DffError, match=r"test_00001.png does not tell its sequence and frame number: take"):
        camvid.clips(tmp_path, "test")


def test_check_counts(val):
    counts = camvid.check(val)
    assert [c.official for c in counts] == [367, 367, 101, 101, 233, 233]
    assert [c.found for c in counts] == [0, 0, 6, 6, 0, 0] and not any(c.complete for c in counts)


def test_the_real_val_is_one_clip(shared_data):
    (clip,) = camvid.clips(shared_data / "CamVid", "val")
    assert (clip.name, len(clip), clip.fps, clip.size) == ("0016E5_07959", 101, 15.0, (360, 480))
    assert set(clip.masks[::5].unique().tolist()) == {*range(11), 255}
    small = camvid.clips(shared_data / "CamVid", "val", short_side=90)[0]
    assert small.frames[100].shape == (3, 90, 120) and small.masks[100].shape == (90, 120)


def test_the_real_train(shared_data):
    found = camvid.clips(shared_data / "CamVid", "train")
    assert [len(clip) for clip in found] == [62, 101, 68, 120, 16] and sum(map(len, found)) == 367
    assert [clip.fps for clip in found] == [1.0] * 5
    assert [c.found for c in camvid.check(shared_data / "CamVid")][:4] == [367, 367, 101, 101]
