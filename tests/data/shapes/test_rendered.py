"""Pairs that are drawn once: the same from the file as drawn anew, whoever writes it, and true however they are turned."""

import errno
import os
import threading

import numpy as np
import pytest
import torch

from dfflib.data.shapes import ShapesClip, rendered
from dfflib.data.shapes.pairs import LATEST
from dfflib.data.shapes.rendered import CHECK, FRACTIONS, RenderedPairs
from dfflib.data.shapes.scenes import SEEDS_PER_SPLIT, get_level
from dfflib.errors import DffError
from dfflib.warp import warp

SIZE, SETTINGS = (32, 32), dict(size=(32, 32), max_interval=6, scenes=3, views=2)
SYMMETRIES = [(quarters, mirrored) for quarters in range(4) for mirrored in (False, True)]


def same(one: tuple, other: tuple) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def all_of(pairs: RenderedPairs) -> list[tuple]:
    return [pairs.pair(n) for n in range(len(pairs))]


@pytest.fixture
def count_drawn(monkeypatch):
    """Scenes drawn so far, in order."""
    drawn, draw = [], RenderedPairs._drawn
    monkeypatch.setattr(RenderedPairs, "_drawn", lambda self, scene: drawn.append(scene) or draw(self, scene))
    return drawn


@pytest.mark.parametrize("split, first", [("train", 0), ("val", SEEDS_PER_SPLIT)])
def test_a_pair_is_two_frames_of_its_scene_with_labels_and_flow(tmp_path, split, first):
    pairs, distances = RenderedPairs(tmp_path, split, **SETTINGS), []
    for n, (key, current, labels, flow, distance) in enumerate(all_of(pairs)):
        clip = ShapesClip(first + n // 2, "study", SIZE, LATEST)
        assert key.dtype == current.dtype == labels.dtype == np.uint8 and flow.dtype == np.int16
        i = next(i for i in range(LATEST) if np.array_equal(clip.frames[i].numpy(), current))
        k = i - int(distance[0])
        assert n % 2 * LATEST // 2 <= k and i < (n % 2 + 1) * LATEST // 2, "views are spread over the time of the scene"
        assert np.array_equal(clip.frames[k].numpy(), key) and np.array_equal(clip.mask(i).numpy(), labels)
        np.testing.assert_allclose(flow / FRACTIONS, clip.flow(i, k).numpy(), atol=0.5 / FRACTIONS + 1e-4)
        distances.append(i - k)
    assert all(0 <= distance < 6 for distance in distances) and len(set(distances)) > 1


def test_the_file_gives_what_drawing_gave_and_nothing_is_drawn_twice(tmp_path, count_drawn):
    first = all_of(RenderedPairs(tmp_path, **SETTINGS))
    assert count_drawn == [0, 1, 2], "all views of a scene are drawn at once"
    pairs = RenderedPairs(tmp_path, **SETTINGS)
    assert all(map(same, all_of(pairs), first)) and len(count_drawn) == 3
    assert all(map(same, all_of(RenderedPairs(tmp_path / "elsewhere", **SETTINGS)), first)) and len(count_drawn) == 6
    assert pairs.path.stat().st_size == len(pairs) * pairs.stride


def test_the_order_in_which_pairs_are_asked_for_changes_nothing(tmp_path):
    forward = RenderedPairs(tmp_path / "forward", **SETTINGS)
    backward = RenderedPairs(tmp_path / "backward", **SETTINGS)
    there = all_of(forward)
    back = [backward.pair(n) for n in reversed(range(len(backward)))]
    assert all(map(same, there, reversed(back)))
    assert forward.path.read_bytes() == backward.path.read_bytes()


def test_a_batch_is_a_function_of_size_seed_and_step(tmp_path):
    pairs = RenderedPairs(tmp_path, **SETTINGS)
    one, again = pairs.batch(4, 5, 7), RenderedPairs(tmp_path, **SETTINGS).batch(4, 5, 7)
    for name in ("key", "current", "labels", "is_key", "flow"):
        assert torch.equal(getattr(one, name), getattr(again, name)), name
    for other in (pairs.batch(4, 5, 8), pairs.batch(4, 6, 7)):
        assert not torch.equal(one.current, other.current)
    assert one.key.shape == one.current.shape == (4, 3, *SIZE) and one.labels.dtype == torch.int64
    assert (
        one.is_key.dtype == torch.bool
        and one.flow.shape == (4, 2, *SIZE)
        and 0 <= one.current.min() <= one.current.max() <= 1
    )


@pytest.mark.parametrize("damage", ["flipped", "cut", "hole"])
def test_a_damaged_record_is_drawn_again(tmp_path, count_drawn, damage):
    pairs = RenderedPairs(tmp_path, **SETTINGS)
    whole = all_of(pairs)
    kept, place = bytearray(pairs.path.read_bytes()), 5 * pairs.stride + CHECK + 100
    if damage == "flipped":
        kept[place] ^= 1
    elif damage == "hole":
        kept[5 * pairs.stride :] = bytes(pairs.stride)
    pairs.path.write_bytes(kept[:place] if damage == "cut" else kept)
    assert all(map(same, all_of(pairs), whole)) and count_drawn == [0, 1, 2, 2]
    assert all(map(same, all_of(pairs), whole)) and len(count_drawn) == 4, "and mended in the file"


def test_two_that_write_at_the_same_time_write_the_same(tmp_path):
    expected, found = all_of(RenderedPairs(tmp_path / "alone", **SETTINGS)), [None, None]
    start = threading.Barrier(2)

    def read(n: int) -> None:
        pairs = RenderedPairs(tmp_path / "shared", **SETTINGS)
        start.wait()
        found[n] = all_of(pairs)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(same, found[0], expected)) and all(map(same, found[1], expected))
    (one,), (other,) = ((tmp_path / name).iterdir() for name in ("alone", "shared"))
    assert one.name == other.name and one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("quarters, mirrored", SYMMETRIES)
def test_a_marked_pixel_is_found_where_the_turned_flow_points(quarters, mirrored):
    """Pixel (10, 4) of the current frame shows what (row 13, column 2) of the key frame does."""
    key, current = np.zeros((3, 20, 20), np.uint8), np.zeros((3, 20, 20), np.uint8)
    current[:, 10, 4], key[:, 13, 2] = 255, 255
    flow = np.zeros((2, 20, 20), np.int16)
    flow[:, 10, 4] = -2 * FRACTIONS, 3 * FRACTIONS
    key, current, labels, flow = rendered._turned(key, current, current[0], flow, quarters, mirrored)
    y, x = np.argwhere(current[0])[0]
    assert labels[y, x] == 255
    dx, dy = flow[:, y, x] // FRACTIONS
    assert key[0, y + dy, x + dx] == 255 and (key[0] > 0).sum() == 1


def test_all_eight_symmetries_of_the_square_occur_and_differ():
    picture = np.arange(9, dtype=np.uint8).reshape(1, 3, 3)
    flow = np.zeros((2, 3, 3), np.int16)
    made = [rendered._turned(picture, picture, picture[0], flow, *each)[0] for each in SYMMETRIES]
    assert len({picture.tobytes() for picture in made}) == 8
    expected = np.rot90(picture, 1, (-2, -1))
    assert np.array_equal(made[2], expected) and np.array_equal(made[3], expected[..., ::-1])


def test_flow_fetches_the_current_frame_after_turning(tmp_path):
    clean = get_level("study", noise=0.0, light=0.0)
    batch = RenderedPairs(tmp_path, level=clean, **SETTINGS | dict(size=(48, 48))).batch(16, 0, 0)
    fetched = (warp(batch.key, batch.flow, "border") - batch.current).abs().mean(1)
    left = (batch.key - batch.current).abs().mean(1)
    moved = batch.flow.norm(dim=1).mean((1, 2)) > 1
    assert moved.sum() >= 4
    assert (fetched[moved].mean((1, 2)) < 0.7 * left[moved].mean((1, 2))).all() and fetched.median() < 0.02
    assert not batch.flow[batch.is_key].any() and torch.equal(batch.key[batch.is_key], batch.current[batch.is_key])


def test_without_augmentation_pairs_stay_as_they_are(tmp_path):
    pairs = RenderedPairs(tmp_path, augment=False, **SETTINGS | dict(size=(32, 48)))
    batch, drawn = pairs.batch(6, 1, 2), all_of(pairs)
    frames = (255 * batch.current).round().to(torch.uint8).numpy()
    assert all(any(np.array_equal(frame, pair[1]) for pair in drawn) for frame in frames)


def test_a_crop_is_the_same_part_of_all_that_a_pair_has(tmp_path):
    pairs = RenderedPairs(tmp_path, augment=False, crop=(20, 24), **SETTINGS | dict(size=(32, 48)))
    batch, drawn, places = pairs.batch(8, 1, 2), all_of(pairs), set()
    for n in range(8):
        found = [
            (top, left)
            for top in range(13) for left in range(25) for pair in drawn
            if all(
                np.array_equal(got, whole[..., top : top + 20, left : left + 24])
                for got, whole in (
                    ((255 * batch.key[n]).round().byte().numpy(), pair[0]),
                    ((255 * batch.current[n]).round().byte().numpy(), pair[1]),
                    (batch.labels[n].byte().numpy(), pair[2]),
                    ((batch.flow[n] * FRACTIONS).short().numpy(), pair[3]),
                )
            )
        ]  # fmt: skip
        assert len(found) == 1
        places |= set(found)
    assert (
        len(places) > 4 and pairs.path == RenderedPairs(tmp_path, **SETTINGS | dict(size=(32, 48)), augment=False).path
    )


@pytest.mark.parametrize(
    "change",
    [
        dict(level="easy"),
        dict(level=get_level("study", noise=3.0)),
        dict(size=(48, 48)),
        dict(max_interval=4),
        dict(views=1),
    ],
)
def test_other_settings_use_another_file(tmp_path, change):
    assert RenderedPairs(tmp_path, **SETTINGS | change).path != RenderedPairs(tmp_path, **SETTINGS).path


def test_what_does_not_change_a_pair_uses_the_same_file(tmp_path):
    one = RenderedPairs(tmp_path, **SETTINGS)
    assert one.path == RenderedPairs(tmp_path, augment=False, **SETTINGS | dict(scenes=7)).path
    assert one.path != RenderedPairs(tmp_path, "val", **SETTINGS).path


def test_pairs_that_another_version_drew_are_not_taken(tmp_path, monkeypatch):
    before = RenderedPairs(tmp_path, **SETTINGS).path
    monkeypatch.setattr(rendered, "_renderer", lambda: b"another version")
    assert RenderedPairs(tmp_path, **SETTINGS).path != before


@pytest.mark.parametrize("changes, said", [
    (dict(split="trial"), "no split 'trial': choose one of train, val, test"),
    (dict(level="extreme"), "no level 'extreme': choose one of easy, medium, hard, study"),
    (dict(scenes=0), "from each of 0 scenes: choose 1 to 1000000 scenes"),
    (dict(scenes=SEEDS_PER_SPLIT + 1), "from each of 1000001 scenes"),
    (dict(views=0), "0 pairs up to 5 frames apart cannot be taken"),
    (dict(views=34), "34 pairs up to 5 frames apart cannot be taken .* views times interval up to 200"),
    (dict(max_interval=0), "2 pairs up to -1 frames apart cannot be taken"),
    (dict(size=(32, 48)), "pictures of 48x32 pixels cannot be turned: give a square, or augment=False"),
    (dict(crop=(33, 32)), "parts of 32x33 pixels cannot be cut out of pictures of 32x32"),
    (dict(crop=(0, 32)), "parts of 32x0 pixels cannot be cut out"),
])  # fmt: skip
def test_what_cannot_be_is_refused(tmp_path, changes, said):
    with pytest.raises(DffError, match=said):
        RenderedPairs(tmp_path, **SETTINGS | changes)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(
        DffError, match=r"\.pairs cannot be the file of .* \(No space left on device\): free some disk space"
    ):
        RenderedPairs(tmp_path, **SETTINGS).pair(0)
