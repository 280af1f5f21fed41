"""DAVIS of both years: numbers become masks and boxes, lists of both forms are read, wrong folders have a sentence."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from dfflib.data import davis
from dfflib.errors import DffError

SIZE = (47, 83)
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]


def objects(i: int, size=SIZE) -> np.ndarray:
    """Objects 1 and 3 (a number may be missing), moving right; 3 is hidden in frame 1."""
    ids = np.zeros(size, np.uint8)
    ids[5:20, 10 + i : 30 + i] = 1
    if i != 1:
        ids[30:47, 60:83] = 3
    return ids


def save(values: np.ndarray, file, palette: bool) -> None:
    image = Image.fromarray(values)
    if palette:
        image.putpalette(PALETTE + [0] * (768 - len(PALETTE)) * int(values.max() > 4))  # as few bits a pixel as will do
    image.save(file)


def sequence(root, name: str, count: int = 3, year: int = 2016, masks: int | None = None, resolution="480p") -> None:
    """One sequence in the official layout, with ``masks`` annotated frames (all by default)."""
    images, labels = root / "JPEGImages" / resolution / name, root / "Annotations" / resolution / name
    images.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", SIZE[::-1], (9 * i, 100, 200)).save(images / f"{i:05d}.jpg")
    count = count if masks is None else masks
    if count:
        labels.mkdir(parents=True)
    for i in range(count):
        ids = objects(i)
        save(ids if year == 2017 else (ids > 0).astype(np.uint8) * 255, labels / f"{i:05d}.png", year == 2017)


def listing(root, folder: str, split: str, names: list[str], frames: int = 0) -> None:
    """A list of names, or of the paths of frames."""
    pair = "/JPEGImages/480p/{0}/{1:05d}.jpg /Annotations/480p/{0}/{1:05d}.png \n"
    lines = [pair.format(name, i) for name in names for i in range(frames)] if frames else [f"{n}\n" for n in names]
    (root / "ImageSets" / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def year2016(tmp_path):
    for name in ("blackswan", "car-shadow"):
        sequence(tmp_path, name)
    listing(tmp_path, "2016", "val", ["blackswan", "absent", "car-shadow"], frames=3)
    return tmp_path


@pytest.fixture
def year2017(tmp_path):
    sequence(tmp_path, "dogs-jump", year=2017)
    sequence(tmp_path, "aerobatics", year=2017, masks=1)
    sequence(tmp_path, "ballet", year=2017, masks=0)
    listing(tmp_path, "2017", "val", ["dogs-jump"])
    listing(tmp_path, "2017", "test-dev", ["aerobatics", "ballet"])
    return tmp_path


def test_2016(year2016):
    swan, car = davis.clips(year2016)
    assert (swan.name, car.name, swan.fps, len(swan), swan.size) == ("blackswan", "car-shadow", 24.0, 3, SIZE)
    assert swan.class_names == ("background", "object") and list(swan.labelled) == [0, 1, 2]
    truth = torch.from_numpy((objects(2) > 0).astype(np.int64))
    assert torch.equal(swan.masks[2], truth) and torch.equal(swan.instances[2], truth)
    assert swan.masks[:].dtype == torch.int64 and swan.frames[0].dtype == torch.uint8
    assert (swan.frames[2].float().mean((1, 2)) - torch.tensor([18.0, 100, 200])).abs().max() < 3
    found = swan.boxes(1)
    assert found.boxes.tolist() == [[11, 5, 31, 20]] and found.boxes.dtype == torch.float32
    assert found.labels.tolist() == [1] and found.tracks.tolist() == [1]


def test_2017_has_instances(year2017):
    (clip,) = davis.clips(year2017, 2017)
    for i in range(3):
        ids = torch.from_numpy(objects(i)).long()
        assert torch.equal(clip.instances[i], ids) and torch.equal(clip.masks[i], (ids > 0).long())
    assert clip.boxes(0).boxes.tolist() == [[10, 5, 30, 20], [60, 30, 83, 47]]
    assert clip.boxes(0).tracks.tolist() == [1, 3] and clip.boxes(-2).tracks.tolist() == [1]
    assert clip.boxes(2).labels.tolist() == [1, 1]


def test_only_first_frames_of_a_test_split_are_labelled(year2017):
    first, none = davis.clips(year2017, 2017, "test-dev")
    assert list(first.labelled) == [0] and len(first) == 3 and first.masks[0].shape == SIZE
    with pytest.raises(DffError, match=r"00001.jpg has no annotation: ask for the frames in clip.labelled only"):
        first.masks[1]
    with pytest.raises(DffError, match="has no annotation"):
        first.boxes(2)
    assert list(first.window(1, 3).labelled) == []
    assert none.masks is None and none.instances is None and len(none.labelled) == 0 and not none.has_boxes
    assert none.num_classes == 0 and none.frames[2].shape == (3, *SIZE)


def test_void_is_ignored_and_an_empty_mask_has_no_boxes(year2017):
    ids = objects(0)
    ids[:5] = 255
    save(ids, year2017 / "Annotations/480p/dogs-jump/00000.png", palette=True)
    save(ids * 0, year2017 / "Annotations/480p/dogs-jump/00001.png", palette=True)
    (clip,) = davis.clips(year2017, 2017)
    assert (clip.masks[0][:5] == 255).all() and (clip.instances[0][:5] == 255).all()
    assert clip.masks[0].unique().tolist() == [0, 1, 255] and clip.boxes(0).tracks.tolist() == [1, 3]
    assert clip.boxes(1).boxes.shape == (0, 4) and len(clip.boxes(1)) == 0


def test_2017_masks_may_be_grey_and_serve_2016_too(year2017):
    save(objects(0), year2017 / "Annotations/480p/dogs-jump/00000.png", palette=False)
    assert davis.clips(year2017, 2017)[0].instances[0].unique().tolist() == [0, 1, 3]
    listing(year2017, "2016", "val", ["dogs-jump"])
    (clip,) = davis.clips(year2017, 2016)
    assert clip.instances[2].unique().tolist() == [0, 1] and clip.boxes(2).tracks.tolist() == [1]


def test_the_lists_of_the_first_release_and_a_folder_around_it(tmp_path):
    sequence(tmp_path / "DAVIS", "bear", 4)
    listing(tmp_path / "DAVIS", "480p", "train", ["bear"], frames=3)  # the list decides, not the folder
    (clip,) = davis.clips(tmp_path, 2016, "train")
    assert len(clip) == 3 and clip.name == "bear"


def test_names_and_resolutions(year2017):
    sequence(year2017, "dogs-jump", 2, 2017, resolution="Full-Resolution")
    assert len(davis.clips(year2017, 2017, "val", "Full-Resolution")[0]) == 2
    with pytest.raises(DffError, match=r"1080p is missing .DAVIS at 1080p.: choose resolution 480p or Full-Resolution"):
        davis.clips(year2017, 2017, "val", "1080p")
    chosen = davis.clips(year2017, 2017, "test-dev", names=["ballet", "aerobatics"])
    assert [clip.name for clip in chosen] == ["ballet", "aerobatics"]
    assert [clip.name for clip in davis.clips(year2017, 2017, "test-dev", names="ballet")] == ["ballet"]
    with pytest.raises(DffError, match="DAVIS 2017 test-dev has no sequence 'bear': choose from aerobatics, ballet"):
        davis.clips(year2017, 2017, "test-dev", names=["bear"])


def test_listed_sequences_that_are_not_there(year2016):
    assert [clip.name for clip in davis.clips(year2016)] == ["blackswan", "car-shadow"]
    with pytest.raises(DffError, match=r"absent is missing .a sequence of DAVIS 2016 val.: copy it from"):
        davis.clips(year2016, names=["absent"])
    listing(year2016, "2016", "train", ["bear", "boat"])
    with pytest.raises(DffError, match="480p holds none of the 2 sequences of DAVIS 2016 train: get them"):
        davis.clips(year2016, split="train")


def test_resizing(year2017):
    (clip,), (whole,) = davis.clips(year2017, 2017, short_side=20), davis.clips(year2017, 2017)
    assert clip.size == (20, 35) and clip.masks[0].shape == clip.instances[0].shape == (20, 35)
    rows, columns = ([int((i + 0.5) * old / new) for i in range(new)] for new, old in ((20, 47), (35, 83)))
    assert torch.equal(clip.instances[0], whole.instances[0][rows][:, columns])
    boxes = clip.boxes(0).boxes
    assert boxes[1, 2:].tolist() == [35, 20]  # touches the corner still
    assert (boxes - whole.boxes(0).boxes * 20 / 47).abs().max() <= 1


def test_opening_reads_no_pixels_and_damage_raises_when_read(year2016):
    (year2016 / "JPEGImages/480p/blackswan/00001.jpg").write_bytes(b"")
    (year2016 / "Annotations/480p/blackswan/00002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    clip = davis.clips(year2016)[0]
    assert clip.masks[0].shape == clip.frames[2].shape[1:]
    with pytest.raises(DffError, match=r"00001.jpg cannot be read as an image: replace it"):
        clip.frames[1]
    for read in (clip.masks.__getitem__, clip.instances.__getitem__, clip.boxes):
        with pytest.raises(DffError, match=r"00002.png cannot be read as an image: replace it"):
            read(2)


def test_windows_memory_and_pickles(year2017):
    (clip,) = davis.clips(year2017, 2017)
    part = clip.window(1, 3)
    assert torch.equal(part.instances[1], clip.instances[2]) and part.boxes(1).tracks.tolist() == [1, 3]
    kept = clip.in_memory()
    assert torch.equal(kept.frames, clip.frames[:]) and kept.boxes(0).tracks.tolist() == [1, 3]
    assert torch.equal(pickle.loads(pickle.dumps(clip)).instances[0], clip.instances[0])


def test_wrong_values(year2016, tmp_path):
    file = year2016 / "Annotations/480p/blackswan/00000.png"
    save(np.full(SIZE, 128, np.uint8), file, palette=False)
    with pytest.raises(
        DffError, match=r"blackswan.00000.png holds the value 128, but masks of DAVIS 2016 hold 0 and 255"
    ):
        davis.clips(year2016)[0].masks[0]
    listing(year2016, "2017", "val", ["car-shadow"])
    with pytest.raises(
        DffError, match=r"holds the value 255 where DAVIS 2017 numbers its objects.*or ask for year 2016"
    ):
        davis.clips(year2016, 2017)[0].masks[0]


def test_sizes_that_differ(year2016):
    save(np.zeros((47, 80), np.uint8), year2016 / "Annotations/480p/blackswan/00000.png", palette=False)
    with pytest.raises(DffError, match=r"00000.png has 80x47 pixels but .*00000.jpg has 83x47: replace"):
        davis.clips(year2016)[0].masks[0]


def test_missing_files(year2016):
    (year2016 / "Annotations/480p/blackswan/00001.png").unlink()
    with pytest.raises(
        DffError, match=r"blackswan.00001.png is missing .a mask of DAVIS 2016 val: every frame has one"
    ):
        davis.clips(year2016)
    (year2016 / "JPEGImages/480p/car-shadow/00002.jpg").unlink()
    with pytest.raises(DffError, match=r"car-shadow lacks 00002.jpg .DAVIS 2016 val.: get it from"):
        davis.clips(year2016, names=["car-shadow"])
    listing(year2016, "2016", "val", ["car-shadow"])  # names no frames, but there is a mask without its image
    with pytest.raises(DffError, match=r"car-shadow lacks 00002.jpg"):
        davis.clips(year2016)


def test_wrong_folders(year2016, tmp_path_factory):
    with pytest.raises(DffError, match="there is no DAVIS 2018: choose year 2016 or 2017"):
        davis.clips(year2016, 2018)
    with pytest.raises(DffError, match="DAVIS 2016 has no split 'test-dev': choose one of train, val"):
        davis.clips(year2016, 2016, "test-dev")
    with pytest.raises(DffError, match=r"2017.val.txt is missing .the sequences of DAVIS 2017 val.: get it from"):
        davis.clips(year2016, 2017)
    with pytest.raises(DffError, match=r"nowhere is missing .the folder of DAVIS.: check the path"):
        davis.clips(year2016 / "nowhere")
    other = tmp_path_factory.mktemp("other")
    with pytest.raises(DffError, match=r"does not hold JPEGImages/ and ImageSets/ .the layout of DAVIS.: give"):
        davis.clips(other)
    (other / "JPEGImages").mkdir()
    (other / "ImageSets").mkdir()
    with pytest.raises(DffError, match="holds no list of a split"):
        davis.check(other)
    listing(other, "2016", "val", [])
    with pytest.raises(DffError, match=r"val.txt is empty"):
        davis.clips(other)
    listing(other, "2016", "val", ["bear"])
    with pytest.raises(DffError, match=r"480p is missing .DAVIS at 480p.: get it from"):
        davis.clips(other)


def test_check_says_what_is_missing_of_a_year_that_is_there(year2016):
    counts = {count.what: count for count in davis.check(year2016)}
    frames = counts["DAVIS 2016 val frames (JPEGImages/480p/)"]
    assert (frames.found, frames.official, frames.complete) == (6, 1376, False)
    assert counts["DAVIS 2016 val sequences (JPEGImages/480p/)"].found == 2
    assert not counts["DAVIS 2016 train sequences"].complete
    assert all(count.complete for what, count in counts.items() if "2017" in what)


def test_check_of_a_whole_copy_of_one_year(year2017, monkeypatch):
    listing(year2017, "2017", "train", ["dogs-jump"])
    monkeypatch.setattr(davis, "OFFICIAL", {**dict.fromkeys(davis.OFFICIAL, (1, 3)), (2017, "test-dev"): (2, 6)})
    counts = davis.check(year2017)
    assert all(count.complete for count in counts)
    assert [c.found for c in counts if "test-dev" in c.what] == [2, 6, 1]
    assert not any(count.needed for count in counts if "2016" in count.what or "challenge" in count.what)


def test_the_real_sequences(shared_data):
    found = davis.clips(shared_data / "DAVIS")
    assert len(found) == 10 and sum(map(len, found)) == 676
    for clip in found:
        assert list(clip.labelled) == list(range(len(clip))) and clip.size == (480, 854)
        for i in (0, len(clip) // 2, -1):
            mask = clip.masks[i]
            assert mask.unique().tolist() == [0, 1] and torch.equal(mask, clip.instances[i])
            x1, y1, x2, y2 = clip.boxes(i).boxes[0].int().tolist()
            inside = mask[y1:y2, x1:x2]
            assert inside.sum() == mask.sum()  # nothing outside, and no empty row or column at the rim
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_the_real_copy_is_half_of_val(shared_data):
    counts = {count.what: count for count in davis.check(shared_data / "DAVIS")}
    assert counts["DAVIS 2016 val sequences (JPEGImages/480p/)"].found == 10
    assert counts["DAVIS 2016 val masks (Annotations/480p/)"].found == 676
