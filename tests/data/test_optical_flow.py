"""Published flow sets as torchvision lays them out: directions, values, masks, batches, a sentence for every defect."""

import os
import pickle
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dfflib.data import optical_flow
from dfflib.data.optical_flow import FlowPairs, check
from dfflib.errors import DffError
from dfflib.training.stages import stage_loss
from dfflib.warp import in_view, resize_flow, warp

SIZE = (37, 53)  # odd
SHIFTS = [(3, -2), (-5, 1), (0, 4), (7, 0), (-1, -1), (2, 6)]  # x, y: of pair n


def shifted(shift, size=SIZE, seed=0):
    """First and second image ``(H, W, 3)`` with first(p) = second(p + shift): what lies at p moves by ``shift``."""
    (x, y), (height, width), margin = shift, size, 8
    scene = np.random.default_rng(seed).integers(0, 256, (height + 16, width + 16, 3), dtype=np.uint8)
    return tuple(
        scene[margin + b : margin + b + height, margin + a : margin + a + width] for a, b in ((0, 0), (-x, -y))
    )


def constant(shift, size=SIZE):
    return np.broadcast_to(np.array(shift, np.float32).reshape(2, 1, 1), (2, *size)).copy()


def write_image(file, image):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)


def write_flo(file, flow):
    """Middlebury's format, written from its specification."""
    file.parent.mkdir(parents=True, exist_ok=True)
    height, width = flow.shape[1:]
    file.write_bytes(
        b"PIEH" + np.array([width, height], "<i4").tobytes() + flow.transpose(1, 2, 0).astype("<f4").tobytes()
    )


def write_kitti_flow(file, flow, valid, dtype=np.uint16):
    """KITTI's format, written from its development kit: 64 u + 2^15, 64 v + 2^15, valid; 0 where not valid."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.where(valid, np.stack([*(flow * 64 + 2**15), np.ones(valid.shape)]), 0)
    cv2.imwrite(str(file), values.transpose(1, 2, 0)[..., ::-1].astype(dtype))


def mask(n, size=SIZE):
    return np.random.default_rng(100 + n).random(size) < 0.3


def chairs(root, marks="112212"):
    folder = root / "FlyingChairs"
    for n in range(len(marks)):
        first, second = shifted(SHIFTS[n], seed=n)
        write_image(folder / f"data/{n + 1:05d}_img1.ppm", first)
        write_image(folder / f"data/{n + 1:05d}_img2.ppm", second)
        write_flo(folder / f"data/{n + 1:05d}_flow.flo", constant(SHIFTS[n]))
    (folder / "FlyingChairs_train_val.txt").write_text("\n".join(marks) + "\n", encoding="utf-8")
    return folder


def sintel(root):
    folder, n = root / "Sintel", 0
    for scene, count in (("market_2", 3), ("alley_1", 2), ("bamboo_1", 4)):
        for frame in range(1, count + 1):
            for kind, channel in (("clean", 0), ("final", 1)):
                image = np.full((*SIZE, 3), 10 * n + frame, np.uint8)
                image[..., 2] = channel  # tells the passes apart
                write_image(folder / f"training/{kind}/{scene}/frame_{frame:04d}.png", image)
            if frame < count:
                write_flo(folder / f"training/flow/{scene}/frame_{frame:04d}.flo", constant((10 * n + frame, frame)))
        n += 1
    for frame in (1, 2, 3):
        write_image(folder / f"test/clean/ambush_3/frame_{frame:04d}.png", np.full((*SIZE, 3), frame, np.uint8))
    return folder


def kitti(root, sizes=(SIZE, (38, 55), SIZE)):
    folder = root / "KittiFlow"
    for n, size in enumerate(sizes):
        for part in ("training", "testing"):
            for frame, image in zip((10, 11), shifted(SHIFTS[n], size, seed=n)):
                write_image(folder / f"{part}/image_2/{n:06d}_{frame}.png", image)
        write_kitti_flow(folder / f"training/flow_occ/{n:06d}_10.png", constant(SHIFTS[n], size), mask(n, size))
    return folder


MAKERS = {"flyingchairs": chairs, "sintel": sintel, "kitti2012": kitti, "kitti2015": kitti}


def assert_moves(item):
    """The published flow is our backward flow: the key frame looked up along it is the current frame, to the bit."""
    flow, valid = item["flow"][None], item["valid"] & in_view(item["flow"][None])[0, 0]
    moved = warp(item["key"][None].float(), flow)[0]
    assert valid.any() and torch.equal(moved[:, valid], item["current"].float()[:, valid])


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize(("split", "numbers"), [("train", [0, 1, 4]), ("val", [2, 3, 5])])
def test_flying_chairs(tmp_path, split, numbers, around):
    folder = chairs(tmp_path)
    pairs = FlowPairs("flyingchairs", tmp_path if around else str(folder), split)
    assert len(pairs) == 3
    for item, n in zip([pairs[i] for i in range(3)], numbers):
        first, second = shifted(SHIFTS[n], seed=n)
        assert torch.equal(item["current"], torch.from_numpy(first.copy()).permute(2, 0, 1))
        assert torch.equal(item["key"], torch.from_numpy(second.copy()).permute(2, 0, 1))
        assert item["flow"].dtype == torch.float32 and item["flow"].shape == (2, *SIZE)
        assert torch.equal(item["flow"], torch.from_numpy(constant(SHIFTS[n])))
        assert item["valid"].dtype == torch.bool and item["valid"].shape == SIZE and item["valid"].all()
        assert_moves(item)
    assert torch.equal(pairs[-1]["flow"], pairs[2]["flow"])
    for index in (3, -4):
        with pytest.raises(IndexError):
            pairs[index]


def test_a_flow_field_that_is_not_constant(tmp_path):
    flow = np.random.default_rng(1).normal(size=(2, *SIZE)).astype(np.float32)
    write_flo(chairs(tmp_path) / "data/00001_flow.flo", flow)
    assert torch.equal(FlowPairs("flyingchairs", tmp_path)[0]["flow"], torch.from_numpy(flow))


@pytest.mark.parametrize(("kind", "channels"), [("clean", [0]), ("final", [1]), ("both", [0, 1])])
def test_sintel_pairs_follow_each_other_within_a_scene(tmp_path, kind, channels):
    pairs = FlowPairs("sintel", sintel(tmp_path), pass_name=kind)
    found = [
        [int(item[k][c, 0, 0]) for k, c in (("current", 0), ("key", 0), ("current", 2))] for item in pairs_of(pairs)
    ]
    # alley_1, bamboo_1, market_2: sorted, whatever the order in which the file system lists them
    one_pass = [(11, 12), (21, 22), (22, 23), (23, 24), (1, 2), (2, 3)]
    assert found == [[*pair, channel] for channel in channels for pair in one_pass]
    for item in pairs_of(pairs):
        assert item["flow"][0, 0, 0] == item["current"][0, 0, 0] and item["valid"].all()


def pairs_of(pairs):
    return [pairs[n] for n in range(len(pairs))]


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    sintel(tmp_path)
    before = [files[0] for files in FlowPairs("sintel", tmp_path).files]
    first = FlowPairs("sintel", tmp_path)[0]
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path), reverse=True))
    pairs = FlowPairs("sintel", tmp_path)
    assert [files[0] for files in pairs.files] == before == sorted(before)
    assert torch.equal(pairs[0]["flow"], first["flow"]) and torch.equal(pairs[0]["key"], first["key"])


def test_sintel_where_flow_is_not_finite_is_not_valid(tmp_path):
    flow = constant((1, 2))
    flow[0, 3, 4], flow[1, 5, 6], flow[0, 7, 8] = np.nan, np.inf, 1.6e9
    write_flo(sintel(tmp_path) / "training/flow/alley_1/frame_0001.flo", flow)
    item = FlowPairs("sintel", tmp_path)[0]
    assert item["flow"].isfinite().all() and (~item["valid"]).nonzero().tolist() == [[3, 4], [5, 6], [7, 8]]
    assert (item["flow"][:, ~item["valid"]] == 0).all() and item["flow"][:, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize("name", ["kitti2012", "kitti2015"])
def test_kitti_is_sparse(tmp_path, name):
    pairs = FlowPairs(name, kitti(tmp_path))
    assert len(pairs) == 3
    for n, item in enumerate(pairs_of(pairs)):
        size = tuple(item["key"].shape[-2:])
        assert size == ((38, 55) if n == 1 else SIZE) and tuple(item["flow"].shape) == (2, *size)
        assert torch.equal(item["valid"], torch.from_numpy(mask(n, size)))
        expected = torch.from_numpy(constant(SHIFTS[n], size)) * item["valid"]
        assert torch.equal(item["flow"], expected)
        assert_moves(item)


def test_kitti_in_64ths_of_a_pixel(tmp_path):
    flow, valid = constant((-500.25, 0.015625)), np.ones(SIZE, bool)
    write_kitti_flow(kitti(tmp_path) / "training/flow_occ/000000_10.png", flow, valid)
    assert torch.equal(FlowPairs("kitti2015", tmp_path)[0]["flow"], torch.from_numpy(flow))


@pytest.mark.parametrize("name", ["sintel", "kitti2012", "kitti2015"])
def test_test_parts_have_images_alone(tmp_path, name):
    MAKERS[name](tmp_path)
    pairs = FlowPairs(name, tmp_path, "test", crop=(20, 31))
    assert len(pairs) == (2 if name == "sintel" else 3) and pairs[0].keys() == {"key", "current"}
    batch = pairs.batch(2, 0, 0)
    assert batch.flow is None and batch.valid is None and batch.key.shape == (2, 3, 20, 31)


@pytest.mark.parametrize("name", MAKERS)
def test_batches_are_functions_of_seed_and_step(tmp_path, name):
    MAKERS[name](tmp_path)
    pairs = FlowPairs(name, tmp_path, crop=(20, 31))
    batch, again = pairs.batch(4, 3, 5), pickle.loads(pickle.dumps(pairs)).batch(4, 3, 5)
    assert batch.key.shape == batch.current.shape == (4, 3, 20, 31) and batch.key.dtype == torch.float32
    assert 0 <= batch.key.min() and batch.key.max() <= 1 and batch.labels is None and batch.is_key is None
    assert batch.flow.shape == (4, 2, 20, 31) and batch.flow.dtype == torch.float32
    assert batch.valid.shape == (4, 1, 20, 31) and batch.valid.dtype == torch.bool
    for part in ("key", "current", "flow", "valid"):
        assert torch.equal(getattr(batch, part), getattr(again, part))
    assert not all(torch.equal(batch.key, pairs.batch(4, *other).key) for other in ((3, 6), (4, 5)))
    assert torch.equal(batch.to("cpu").valid, batch.valid)


@pytest.mark.parametrize("name", ["flyingchairs", "kitti2015"])
def test_crops_and_flips_keep_the_flow_right(tmp_path, name):
    MAKERS[name](tmp_path)
    plain, flipped = (FlowPairs(name, tmp_path, crop=(25, 33), flip=flip) for flip in (False, True))
    signs = set()
    for step in range(12):
        for pairs in (plain, flipped):
            batch = pairs.batch(1, 0, step)
            item = {part: (getattr(batch, part)[0] * 255).round() for part in ("key", "current")}
            assert_moves(item | {"flow": batch.flow[0], "valid": batch.valid[0, 0]})
        before, after = plain.batch(1, 0, step), flipped.batch(1, 0, step)  # with one sample, the flip is the last draw
        if torch.equal(before.key, after.key):
            signs.add(1)
            assert torch.equal(before.flow, after.flow)
        else:
            signs.add(-1)
            assert torch.equal(before.key.flip(-1), after.key) and torch.equal(before.valid.flip(-1), after.valid)
            assert torch.equal(before.flow.flip(-1) * torch.tensor([-1.0, 1]).view(1, 2, 1, 1), after.flow)
    assert signs == {1, -1}


def test_a_crop_of_the_full_size(tmp_path):
    chairs(tmp_path)
    pairs = FlowPairs("flyingchairs", tmp_path, crop=SIZE, flip=False)
    batch, keys = pairs.batch(8, 1, 1), [item["key"] / 255 for item in pairs_of(pairs)]
    assert all(any(torch.equal(key, other) for other in keys) for key in batch.key)


def test_check_counts_against_the_official_numbers(tmp_path):
    chairs(tmp_path), sintel(tmp_path), kitti(tmp_path)

    def found(name):
        return [(count.found, count.official) for count in check(name, tmp_path)]

    assert found("flyingchairs") == [(6, 22_872)] * 3 + [(3, 22_232), (3, 640)]
    training = [(3, 23), (9, 1_064)] * 2 + [(6, 1_041)]
    assert found("sintel") == training + [(1, 12), (3, 564), (0, 12), (0, 564)]
    assert found("kitti2012") == [(3, 194)] * 3 + [(3, 195)] * 2
    assert found("kitti2015") == [(3, 200)] * 3 + [(3, 200)] * 2
    counts = check("sintel", tmp_path / "Sintel")
    assert [count.needed for count in counts] == [True] * 5 + [False] * 4
    assert not counts[0].complete and all("sintel.is.tue.mpg.de" in count.note for count in counts)
    assert optical_flow.SETS["sintel"].official == {"train": 1_064 - 23, "test": 564 - 12}


def test_check_of_a_copy_without_its_list(tmp_path):
    (chairs(tmp_path) / "FlyingChairs_train_val.txt").unlink()
    assert [count.found for count in check("flyingchairs", tmp_path)] == [6, 6, 6, 0, 0]


def sentence(error):
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text, text
    return text


def remove(*names):
    def damage(folder):
        for name in names:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return damage


def write(name, content):
    def damage(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return damage


FRAME = "training/clean/bamboo_1/frame_000"
WRONG_FOLDERS = [
    ("flyingchairs", remove("data"), "data is missing"),
    ("flyingchairs", remove("FlyingChairs_train_val.txt"), "FlyingChairs_train_val.txt is missing"),
    ("flyingchairs", write("FlyingChairs_train_val.txt", b"1\n2\n"), "each of the 6 pairs in"),
    ("flyingchairs", write("FlyingChairs_train_val.txt", b"1 1 1 1 1 x"), "a 1 (train) or 2 (val)"),
    ("flyingchairs", write("FlyingChairs_train_val.txt", b"2 2 2 2 2 2"), "no pair of the train split"),
    ("flyingchairs", remove("data/00002_img1.ppm"), "the first 00002_img1.ppm"),
    ("flyingchairs", remove("data/00002_flow.flo", "data/00006_flow.flo"), "lacks 2 files"),
    ("flyingchairs", write("data/00003_extra.ppm", b""), "00003_extra.ppm"),
    ("sintel", remove("training/clean"), "clean is missing"),
    ("sintel", remove("training/flow"), "flow is missing"),
    ("sintel", remove("training/clean/market_2"), "market_2 is missing"),
    ("sintel", remove("training/flow/market_2"), "market_2 is missing"),
    ("sintel", remove(FRAME + "2.png"), "the first frame_0002.png"),
    ("sintel", remove(FRAME + "4.png"), "frame_0003.flo is not part of any pair"),
    ("sintel", remove(FRAME + "1.png"), "frame_0001.flo is not part of any pair"),
    ("sintel", remove("training/flow/alley_1/frame_0001.flo"), "the first frame_0001.flo"),
    ("sintel", remove("training/clean/alley_1/frame_0002.png"), "less than two frames"),
    ("sintel", lambda folder: (folder / "training/clean/empty").mkdir(), "empty holds less than two frames"),
    ("kitti2015", remove("training"), "image_2 is missing"),
    ("kitti2015", remove("training/flow_occ"), "flow_occ is missing"),
    ("kitti2015", remove("training/image_2/000002_11.png"), "the first 000002_11.png"),
    ("kitti2015", remove("training/image_2/000000_10.png"), "the first 000000_10.png"),
    ("kitti2015", remove("training/flow_occ/000001_10.png"), "the first 000001_10.png"),
    (
        "kitti2015",
        lambda folder: (folder / "training/colored_0").mkdir(),
        "is not of KITTI 2015 (the other KITTI has colored_0",
    ),
    (
        "kitti2012",
        lambda folder: (folder / "training/disp_occ_0").mkdir(),
        "is not of KITTI 2012 (the other KITTI has disp_occ_0",
    ),
    (
        "kitti2012",
        lambda folder: (folder / "training/image_2").rename(folder / "training/colored_0"),
        "rename or link that folder to image_2",
    ),
    (
        "flyingchairs",
        lambda folder: shutil.move(folder / "data/00001_flow.flo", folder / "data/1.flo"),
        "lacks 4 files",
    ),
    (
        "flyingchairs",
        lambda folder: (remove("data")(folder), (folder / "data").write_text("", encoding="utf-8")),
        "is not FlyingChairs (NotADirectoryError)",
    ),
]


@pytest.mark.parametrize(("name", "damage", "text"), WRONG_FOLDERS)
def test_wrong_and_incomplete_folders(tmp_path, name, damage, text):
    damage(MAKERS[name](tmp_path))
    with pytest.raises(DffError) as error:
        FlowPairs(name, tmp_path)
    assert text in sentence(error) and str(tmp_path) in sentence(error)


def test_an_empty_kitti_folder_and_a_mixed_one(tmp_path):
    (tmp_path / "KittiFlow/training/image_2").mkdir(parents=True)
    (tmp_path / "KittiFlow/training/flow_occ").mkdir()
    with pytest.raises(DffError, match="no pair of the train split"):
        FlowPairs("kitti2012", tmp_path)
    for n in range(195):
        (tmp_path / f"KittiFlow/training/image_2/{n:06d}_10.png").touch()
    with pytest.raises(DffError, match="holds 195 pairs but KITTI 2012 has 194"):
        FlowPairs("kitti2012", tmp_path)


DAMAGED = [
    ("flyingchairs", write("data/00001_flow.flo", b"JUNKjunkjunkjunk"), "00001_flow.flo cannot be read"),
    ("flyingchairs", write("data/00001_flow.flo", b""), "00001_flow.flo cannot be read"),
    ("flyingchairs", write("data/00001_flow.flo", b"PIEH" + 2 * b"\xff\xff\xff\x7f"), "flow.flo cannot be read"),
    ("flyingchairs", lambda folder: write_flo(folder / "data/00001_flow.flo", constant((1, 1), (4, 5))), "5x4 pixels"),
    ("flyingchairs", write("data/00001_img2.ppm", b"P6 9 9 255 short"), "00001_img2.ppm cannot be read"),
    ("sintel", write("training/clean/alley_1/frame_0001.png", b"no image"), "frame_0001.png cannot be read"),
    ("sintel", lambda f: write_image(f / "training/clean/alley_1/frame_0002.png", np.zeros((9, 8, 3), "u1")), "8x9"),
    ("kitti2015", write("training/flow_occ/000000_10.png", b"no image"), "flow_occ/000000_10.png cannot be read"),
    (
        "kitti2015",
        lambda f: write_kitti_flow(f / "training/flow_occ/000000_10.png", constant((1, 1)), mask(0), np.uint8),
        "has 8 bits per value",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "text"), DAMAGED)
def test_damaged_files_are_named_when_they_are_read(tmp_path, name, damage, text):
    damage(MAKERS[name](tmp_path))
    pairs = FlowPairs(name, tmp_path)
    with pytest.raises(DffError) as error:
        pairs[0]
    assert text in sentence(error)


def test_hidden_files_do_no_harm(tmp_path):
    """The .DS_Store and ._X files that copies by way of other systems bring along."""
    for maker in (chairs, sintel, kitti):
        folder = maker(tmp_path)
        for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            for name in (".DS_Store", "._00001_img1.ppm", "._frame_0001.png", "._000000_10.png", "._frame_0001.flo"):
                (place / name).write_bytes(b"junk")
    assert [len(FlowPairs(name, tmp_path)) for name in MAKERS] == [3, 6, 3, 3]
    assert [check(name, tmp_path)[0].found for name in MAKERS] == [6, 3, 3, 3]


@pytest.mark.parametrize("name", MAKERS)
def test_wrong_roots(tmp_path, name):
    for root, text in ((tmp_path / "nowhere", "is missing"), (tmp_path, "holds no folder")):
        for call in (FlowPairs, check):
            with pytest.raises(DffError) as error:
                call(name, root)
            assert text in sentence(error) and str(root) in sentence(error)


def test_a_path_that_torchvision_takes_for_a_pattern(tmp_path):
    chairs(tmp_path / "data [old]")
    with pytest.raises(DffError) as error:
        FlowPairs("flyingchairs", tmp_path / "data [old]")
    assert "pattern" in sentence(error)


def test_wrong_arguments(tmp_path):
    chairs(tmp_path), sintel(tmp_path), kitti(tmp_path)
    for call, text in (
        (lambda: FlowPairs("chairs", tmp_path), "no flow data set 'chairs'"),
        (lambda: check("chairs", tmp_path), "choose one of flyingchairs, sintel, kitti2012, kitti2015"),
        (lambda: FlowPairs("flyingchairs", tmp_path, "test"), "no split 'test': choose one of train, val"),
        (lambda: FlowPairs("kitti2012", tmp_path, "val"), "choose one of train, test"),
        (lambda: FlowPairs("sintel", tmp_path, pass_name="albedo"), "no pass 'albedo'"),
        (lambda: FlowPairs("kitti2015", tmp_path, pass_name="final"), "no pass 'final'"),
        (lambda: FlowPairs("kitti2015", tmp_path, crop=(0, 8)), "the crop is 8x0 pixels"),
        (lambda: FlowPairs("flyingchairs", tmp_path, crop=(38, 8)), "00001_img1.ppm has 53x37 pixels"),
        (lambda: FlowPairs("flyingchairs", tmp_path).batch(1, 0, 0), "crop=None"),
        (lambda: FlowPairs("flyingchairs", tmp_path, crop=(8, 8)).batch(0, 0, 0), "0 pairs"),
    ):
        with pytest.raises(DffError) as error:
            call()
        assert text in sentence(error)


def test_a_crop_larger_than_a_later_image(tmp_path):
    kitti(tmp_path, sizes=((38, 55), SIZE))
    pairs = FlowPairs("kitti2015", tmp_path, crop=(38, 55))
    with pytest.raises(DffError, match=r"000001_10.png has 53x37 pixels, less than the training crop of 55x38"):
        for step in range(20):
            pairs.batch(1, 0, step)


def test_training_uses_the_mask(tmp_path):
    kitti(tmp_path)
    batch = FlowPairs("kitti2015", tmp_path, crop=(24, 32)).batch(2, 0, 0)
    truth = batch.flow.clone()

    class Model:
        def flow_levels(self, key, current):
            return [resize_flow(truth, (24, 32)) + 1]

    loss = stage_loss(Model(), "flow_pretrain", batch)
    assert loss.item() == pytest.approx(2**0.5, rel=1e-4)
    batch.flow[~batch.valid.expand_as(batch.flow)] = 999.0
    assert torch.equal(stage_loss(Model(), "flow_pretrain", batch), loss)
