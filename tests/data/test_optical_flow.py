"""Published flow sets: directions, values, masks, batches, a sentence for every defect."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dfflib.data.optical_flow import FlowPairs, check, read_flo
from dfflib.errors import DffError
from dfflib.warp import in_view, warp

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
    """Six scenes, of which the first validates: alley_1 with two frames, the others with three."""
    folder = root / "Sintel"
    for n, scene in enumerate(("alley_1", "alley_2", "bamboo_1", "cave_2", "market_2", "temple_3")):
        count = 3 if n else 2
        for frame in range(1, count + 1):
            for kind, channel in (("clean", 0), ("final", 1)):
                image = np.full((*SIZE, 3), 10 * n + frame, np.uint8)
                image[..., 2] = channel  # tells the passes apart
                write_image(folder / f"training/{kind}/{scene}/frame_{frame:04d}.png", image)
            if frame < count:
                write_flo(folder / f"training/flow/{scene}/frame_{frame:04d}.flo", constant((10 * n + frame, frame)))
    return folder


MAKERS = {"flyingchairs": chairs, "sintel": sintel}
CROP = (20, 31)


def assert_moves(key, current, flow):
    """The published flow is our backward flow: the key frame looked up along it is the current frame, to the bit."""
    seen = in_view(flow[None])[0, 0]
    moved = warp(key[None].float(), flow[None])[0]
    assert seen.any() and torch.equal(moved[:, seen], current.float()[:, seen])


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("split, numbers", [("train", [0, 1, 4]), ("val", [2, 3, 5])])
def test_flying_chairs(tmp_path, split, numbers, around):
    folder = chairs(tmp_path)
    pairs = FlowPairs("flyingchairs", tmp_path if around else str(folder), split, CROP)
    assert len(pairs) == 3
    for index, n in enumerate(numbers):
        key, current, flow = pairs.read(index)
        first, second = shifted(SHIFTS[n], seed=n)
        assert torch.equal(current, torch.from_numpy(first.copy()).permute(2, 0, 1))
        assert torch.equal(key, torch.from_numpy(second.copy()).permute(2, 0, 1))
        assert flow.dtype == torch.float32 and torch.equal(flow, torch.from_numpy(constant(SHIFTS[n])))
        assert_moves(key, current, flow)


def test_a_flow_field_that_is_not_constant(tmp_path):
    flow = np.random.default_rng(1).normal(size=(2, *SIZE)).astype(np.float32)
    write_flo(tmp_path / "some.flo", flow)
    assert torch.equal(read_flo(tmp_path / "some.flo"), torch.from_numpy(flow))


def test_sintel_pairs_follow_each_other_within_a_scene(tmp_path):
    sintel(tmp_path)

    def found(split):
        pairs = FlowPairs("sintel", tmp_path, split, CROP)
        values = []
        for key, current, flow in map(pairs.read, range(len(pairs))):
            assert flow[0, 0, 0] == current[0, 0, 0]
            values.append((int(current[0, 0, 0]), int(key[0, 0, 0]), int(current[2, 0, 0])))
        return values

    assert found("val") == [(1, 2, 0), (1, 2, 1)]  # the clean pass, then the final one
    assert found("train") == [
        (10 * n + frame, 10 * n + frame + 1, kind) for n in range(1, 6) for kind in (0, 1) for frame in (1, 2)
    ]


def test_where_flow_is_not_finite_it_is_not_valid(tmp_path):
    flow = constant((1, 2))
    flow[0, 3, 4], flow[1, 5, 6], flow[0, 7, 8] = np.nan, np.inf, 1.6e9
    for file in (sintel(tmp_path) / "training/flow/alley_1").iterdir():
        write_flo(file, flow)
    batch = FlowPairs("sintel", tmp_path, "val", SIZE, flip=False).batch(1, 0, 0)
    assert batch.flow.isfinite().all() and (~batch.valid[0, 0]).nonzero().tolist() == [[3, 4], [5, 6], [7, 8]]
    assert (batch.flow[0, :, ~batch.valid[0, 0]] == 0).all() and batch.flow[0, :, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize("name", MAKERS)
def test_batches_are_functions_of_seed_and_step(tmp_path, name):
    MAKERS[name](tmp_path)
    pairs = FlowPairs(name, tmp_path, "train", CROP)
    batch, again = pairs.batch(4, 3, 5), pickle.loads(pickle.dumps(pairs)).batch(4, 3, 5)
    assert batch.key.shape == batch.current.shape == (4, 3, *CROP) and batch.key.dtype == torch.float32
    assert batch.key.min() >= 0 and batch.key.max() <= 1 and batch.labels is None and batch.is_key is None
    assert batch.flow.shape == (4, 2, *CROP) and batch.flow.dtype == torch.float32
    assert batch.valid.shape == (4, 1, *CROP) and batch.valid.all()
    for part in ("key", "current", "flow", "valid"):
        assert torch.equal(getattr(batch, part), getattr(again, part))
    assert not all(torch.equal(batch.key, pairs.batch(4, *other).key) for other in ((3, 6), (4, 5)))


def test_crops_and_flips_keep_the_flow_right(tmp_path):
    chairs(tmp_path)
    plain, flipped = (FlowPairs("flyingchairs", tmp_path, "train", (25, 33), flip=flip) for flip in (False, True))
    signs = set()
    for step in range(12):
        for pairs in (plain, flipped):
            batch = pairs.batch(1, 0, step)
            assert_moves((batch.key[0] * 255).round(), (batch.current[0] * 255).round(), batch.flow[0])
        before, after = plain.batch(1, 0, step), flipped.batch(1, 0, step)  # with one sample, the flip is the last draw
        if torch.equal(before.key, after.key):
            signs.add(1)
            assert torch.equal(before.flow, after.flow)
        else:
            signs.add(-1)
            assert torch.equal(before.key.flip(-1), after.key)
            assert torch.equal(before.flow.flip(-1) * torch.tensor([-1.0, 1]).view(1, 2, 1, 1), after.flow)
    assert signs == {1, -1}


def test_check_counts_against_the_official_numbers(tmp_path):
    chairs(tmp_path), sintel(tmp_path)

    def found(name):
        return [(count.found, count.official) for count in check(name, tmp_path)]

    assert found("flyingchairs") == [(6, 22_872)] * 3 + [(3, 22_232), (3, 640)]
    assert found("sintel") == [(6, 23), (17, 1_064)] * 2 + [(11, 1_064 - 23)]
    counts = check("sintel", tmp_path / "Sintel")
    assert not counts[0].complete and all("sintel.is.tue.mpg.de" in count.note for count in counts)
    (tmp_path / "FlyingChairs/FlyingChairs_train_val.txt").unlink()
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
    return lambda folder: (folder / name).write_bytes(content)


FRAME = "training/clean/bamboo_1/frame_000"
WRONG_FOLDERS = [
    ("flyingchairs", remove("data"), "holds no folder data"),
    ("flyingchairs", remove("FlyingChairs_train_val.txt"), "FlyingChairs_train_val.txt is missing"),
    ("flyingchairs", write("FlyingChairs_train_val.txt", b"1\n2\n"), "each of the 6 pairs in"),
    ("flyingchairs", write("FlyingChairs_train_val.txt", b"1 1 1 1 1 x"), "a 1 (train) or 2 (val)"),
    ("flyingchairs", write("FlyingChairs_train_val.txt", b"2 2 2 2 2 2"), "no pair of the train split"),
    ("flyingchairs", remove("data/00002_img1.ppm"), "lacks 00002_img1.ppm"),
    ("flyingchairs", remove("data/00002_flow.flo", "data/00006_flow.flo"), "one of 2 files"),
    ("flyingchairs", write("data/extra.ppm", b""), "lacks extra.ppm_img1.ppm"),
    ("sintel", remove("training"), "holds no folder training"),
    ("sintel", remove("training/flow"), "flow is missing"),
    ("sintel", remove("training/clean"), "lacks frame_0001.png, one of 15 files"),
    ("sintel", remove("training/final/market_2"), "lacks frame_0001.png, one of 3 files"),
    ("sintel", remove("training/flow/market_2"), "lacks frame_0001.flo, one of 2 files"),
    ("sintel", remove(FRAME + "2.png"), "lacks frame_0002.png"),
    ("sintel", remove(FRAME + "3.png"), "lacks frame_0003.png"),
    ("sintel", remove(FRAME + "1.png"), "lacks frame_0001.png"),
    ("sintel", remove("training/flow/bamboo_1/frame_0001.flo"), "lacks frame_0001.flo"),
]


@pytest.mark.parametrize("name, damage, text", WRONG_FOLDERS)
def test_wrong_and_incomplete_folders(tmp_path, name, damage, text):
    damage(MAKERS[name](tmp_path))
    with pytest.raises(DffError) as error:
        FlowPairs(name, tmp_path, "train", CROP)
    assert text in sentence(error) and str(tmp_path) in sentence(error)


DAMAGED = [
    ("flyingchairs", write("data/00003_flow.flo", b"JUNKjunkjunkjunk"), "00003_flow.flo is no .flo file"),
    ("flyingchairs", write("data/00003_flow.flo", b""), "00003_flow.flo is no .flo file"),
    ("flyingchairs", write("data/00003_flow.flo", b"PIEH" + 2 * b"\xff\xff\xff\x7f"), "00003_flow.flo is no .flo file"),
    ("flyingchairs", write("data/00003_flow.flo", b"PIEH" + 2 * b"\xff" * 4 + b"8 bytes."), "is no .flo file"),
    ("flyingchairs", lambda folder: write_flo(folder / "data/00003_flow.flo", constant((1, 1), (4, 5))), "5x4 pixels"),
    ("flyingchairs", write("data/00003_img2.ppm", b"P6 9 9 255 short"), "00003_img2.ppm cannot be read"),
    ("sintel", write("training/clean/alley_1/frame_0001.png", b"no image"), "frame_0001.png cannot be read"),
    ("sintel", lambda f: write_image(f / "training/clean/alley_1/frame_0002.png", np.zeros((9, 8, 3), "u1")), "8x9"),
]


@pytest.mark.parametrize("name, damage, text", DAMAGED)
def test_damaged_files_are_named_when_they_are_read(tmp_path, monkeypatch, name, damage, text):
    damage(MAKERS[name](tmp_path))
    monkeypatch.setattr(FlowPairs, "_sample", lambda *_: None)  # the look at one pair before training
    pairs = FlowPairs(name, tmp_path, "val", CROP)
    with pytest.raises(DffError) as error:
        pairs.read(0)
    assert text in sentence(error)


def test_hidden_files_do_no_harm(tmp_path):
    """The .DS_Store and ._X files that copies by way of other systems bring along."""
    for maker in (chairs, sintel):
        folder = maker(tmp_path)
        for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            for name in (".DS_Store", "._00001_img1.ppm", "._frame_0001.png", "._frame_0001.flo"):
                (place / name).write_bytes(b"junk")
    assert [len(FlowPairs(name, tmp_path, "train", CROP)) for name in MAKERS] == [3, 20]
    assert [check(name, tmp_path)[0].found for name in MAKERS] == [6, 6]


def test_wrong_arguments(tmp_path):
    chairs(tmp_path), sintel(tmp_path)
    for call, text in (
        (lambda: FlowPairs("chairs", tmp_path, "train", CROP), "no flow data set 'chairs'"),
        (lambda: check("chairs", tmp_path), "choose one of flyingchairs, sintel"),
        (lambda: check("sintel", tmp_path / "nowhere"), "nowhere is missing"),
        (lambda: FlowPairs("sintel", tmp_path, "test", CROP), "no split 'test': choose one of train, val"),
        (
            lambda: FlowPairs("flyingchairs", tmp_path, "train", (38, 8)),
            "53x37 pixels, less than the training crop of 8x38",
        ),
    ):
        with pytest.raises(DffError) as error:
            call()
        assert text in sentence(error)
