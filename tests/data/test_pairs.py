"""Training batches: pure functions of seed and step, pairs inside a shot, and both frames cut and flipped alike."""

import os
import subprocess
import sys

import pytest
import torch

from dfflib.data.clips import Clip
from dfflib.data.pairs import Batch, FramePairs, MovedFrames, Steps, generator, random_flow
from dfflib.errors import DffError
from dfflib.paths import ROOT
from dfflib.warp import warp

HEIGHT, WIDTH = 20, 30


def coordinate_clip(length=12, name="coordinates", labelled=None) -> Clip:
    """Pixels that say where and when they are: red = x, green = y, blue = frame; labels say y * WIDTH + x."""
    x, y = torch.arange(WIDTH).expand(HEIGHT, WIDTH), torch.arange(HEIGHT)[:, None].expand(HEIGHT, WIDTH)
    frames = torch.stack([torch.stack((x, y, torch.full_like(x, t))) for t in range(length)]).to(torch.uint8)
    return Clip(name, frames, masks=(y * WIDTH + x).expand(length, -1, -1), labelled=labelled, class_names=("a", "b"))


def cut_clip() -> Clip:
    """Three shots, from frames 0, 5 and 9, of 16 frames, told apart by colour; blue is ten times the frame number."""
    frames = torch.zeros(16, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    frames[:5, 0], frames[5:9, 1], frames[9:, :2] = 255, 255, 120
    frames[:, 2] = 10 * torch.arange(16)[:, None, None]
    return Clip("cut", frames, masks=torch.zeros(16, HEIGHT, WIDTH, dtype=torch.int64), class_names=("a", "b"))


def textured_clip(height=48, width=64, length=6, seed=0) -> Clip:
    rng = torch.Generator().manual_seed(seed)
    small = torch.rand(length, 3, height // 4, width // 4, generator=rng)
    frames = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1) * 160 + 40
    return Clip("textured", frames.to(torch.uint8))


def equal(a: Batch, b: Batch) -> bool:
    pairs = zip(vars(a).values(), vars(b).values())
    return all((x is None and y is None) or torch.equal(x, y) for x, y in pairs)


def byte(image):
    return (image * 255).round().long()


SOURCES = {
    "pairs": lambda: FramePairs([coordinate_clip(), coordinate_clip(9)], (8, 12), 4),
    "moved": lambda: MovedFrames([textured_clip()], (32, 40)),
}


@pytest.mark.parametrize("name", list(SOURCES))
def test_a_batch_is_a_pure_function_of_seed_and_step(name):
    one, other = SOURCES[name](), SOURCES[name]()
    expected = [one.batch(3, 7, step) for step in range(4)]
    torch.rand(5)  # the global generator plays no part
    torch.manual_seed(99)
    for step in (2, 0, 3, 1):  # nor does the order
        assert equal(other.batch(3, 7, step), expected[step])
    state = torch.get_rng_state()
    one.batch(2, 0, 0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", list(SOURCES))
def test_steps_and_seeds_differ(name):
    source = SOURCES[name]()
    batches = [source.batch(3, seed, step) for seed in (0, 1, 2) for step in range(5)]
    assert not any(equal(a, b) for i, a in enumerate(batches) for b in batches[:i])


def test_generators_of_seeds_and_steps_are_all_different():
    first = {
        torch.rand(2, generator=generator(seed, step)).numpy().tobytes() for seed in range(4) for step in range(500)
    }
    assert len(first) == 2000


def test_shapes_types_and_range():
    batch = SOURCES["pairs"]().batch(5, 0, 0)
    assert batch.key.shape == batch.current.shape == (5, 3, 8, 12) and batch.labels.shape == (5, 8, 12)
    assert batch.key.dtype == torch.float32 and batch.labels.dtype == torch.int64 and batch.is_key.dtype == torch.bool
    assert batch.is_key.shape == (5,) and batch.flow is None and batch.key.min() >= 0 and batch.current.max() <= 1
    moved = SOURCES["moved"]().batch(5, 0, 0)
    assert moved.flow.shape == (5, 2, 32, 40) and moved.labels is None and moved.is_key is None
    assert vars(moved.to("cpu")).keys() == vars(moved).keys() and equal(moved.to("cpu"), moved)


def test_offsets_lie_in_0_to_l_minus_1_cover_them_all_and_are_even():
    batch = FramePairs([coordinate_clip(200)], (8, 12), 4).batch(800, 0, 0)
    offset = byte(batch.current)[:, 2, 0, 0] - byte(batch.key)[:, 2, 0, 0]
    counts = torch.bincount(offset, minlength=4)
    assert len(counts) == 4 and counts.min() > 140, counts.tolist()  # 200 each expected
    assert torch.equal(batch.is_key, offset == 0)


def test_early_frames_look_back_to_the_first():
    batch = FramePairs([coordinate_clip(3)], (8, 12), 50).batch(200, 0, 0)
    key, current = byte(batch.key)[:, 2, 0, 0], byte(batch.current)[:, 2, 0, 0]
    assert key.min() == 0 and (key <= current).all() and set(current.tolist()) == {0, 1, 2}


def test_no_pair_crosses_a_cut():
    source = FramePairs([cut_clip()], (8, 12), 10)
    assert source.shots[0].starts == [0, 5, 9]
    batch = source.batch(400, 1, 0)
    key, current = byte(batch.key)[:, 2, 0, 0] // 10, byte(batch.current)[:, 2, 0, 0] // 10
    start = torch.tensor([0] * 5 + [5] * 4 + [9] * 7)
    assert torch.equal(start[key], start[current]) and (key <= current).all()
    assert set(current.tolist()) == set(range(16)) and (current - key).max() == 6
    assert torch.equal(batch.key[:, :2], batch.current[:, :2]), "same colours: same shot"


def test_flips_and_crops_are_alike_for_both_frames_and_labels():
    batch = FramePairs([coordinate_clip()], (8, 12), 4).batch(200, 3, 0)
    for image in (byte(batch.key), byte(batch.current)):
        assert torch.equal(image[:, 1] * WIDTH + image[:, 0], batch.labels)
    x, y = byte(batch.current)[:, 0], byte(batch.current)[:, 1]
    steps = x[:, 0, 1:] - x[:, 0, :-1]
    flipped = steps[:, 0] == -1
    assert torch.equal(steps, torch.where(flipped, -1, 1)[:, None].expand_as(steps)), (
        "a whole row, one way or the other"
    )
    assert 60 < flipped.sum() < 140, "about half are mirrored"
    assert set(y[:, 0, 0].tolist()) == set(range(HEIGHT - 8 + 1)), "every place is cut, the last row too"
    assert set(x.amin((1, 2)).tolist()) == set(range(WIDTH - 12 + 1))


def test_flips_can_be_left_out_and_the_crop_may_be_the_whole_frame():
    batch = FramePairs([coordinate_clip()], (HEIGHT, WIDTH), 4, flip=False).batch(20, 0, 0)
    assert torch.equal(batch.labels, torch.arange(HEIGHT * WIDTH).view(1, HEIGHT, WIDTH).expand(20, -1, -1))


def test_only_labelled_frames_are_current():
    batch = FramePairs([coordinate_clip(labelled=[4, 9])], (8, 12), 3).batch(100, 0, 0)
    assert set(byte(batch.current)[:, 2, 0, 0].tolist()) == {4, 9}
    assert set(byte(batch.key)[:, 2, 0, 0].tolist()) == {2, 3, 4, 7, 8, 9}


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: FramePairs([coordinate_clip()], (8, 12), 0), "interval is 0"),
        (lambda: FramePairs([coordinate_clip()], (21, 12), 2), "coordinates.*30x20 pixels.*12x21"),
        (lambda: FramePairs([coordinate_clip()], (8, 31), 2), "smaller than the training crop"),
        (lambda: FramePairs([Clip("u", coordinate_clip().frames)], (8, 12), 2), "no clip has a labelled frame"),
        (lambda: FramePairs([], (8, 12), 2), "no clip"),
        (lambda: MovedFrames([textured_clip()], (64, 64)), "textured.*smaller"),
    ],
)
def test_what_cannot_be_sampled_is_refused(make, words):
    with pytest.raises(DffError, match=words):
        make()


def test_moved_frames_are_the_key_looked_up_along_the_flow():
    source = MovedFrames([textured_clip()], (32, 40))
    for step in range(4):
        batch = source.batch(8, 0, step)
        moved = warp(batch.key, batch.flow, "border")
        gain = (batch.current * moved).sum((1, 2, 3)) / moved.square().sum((1, 2, 3))
        assert (gain - 1).abs().max() < 0.06
        error = batch.current - gain.view(-1, 1, 1, 1) * moved
        assert error.abs().mean() < 0.012 and error.abs().max() < 0.1, "what is left is noise"


def test_moved_frames_flow_the_wrong_way_fits_worse():
    batch = MovedFrames([textured_clip()], (32, 40)).batch(32, 0, 0)
    moving = batch.flow.norm(dim=1).mean((1, 2)) > 2
    errors = [
        (warp(batch.key, flow, "border") - batch.current).abs().mean((1, 2, 3))[moving]
        for flow in (batch.flow, -batch.flow, batch.flow.flip(1), 0 * batch.flow)
    ]
    assert moving.sum() > 5 and all((errors[0] < other).float().mean() > 0.9 for other in errors[1:])


def test_a_long_videos_moved_frames_cost_no_memory_for_labels():
    class Long:
        def __len__(self):
            return 10_000_000

        def __getitem__(self, index):
            return torch.zeros(3, 480, 640, dtype=torch.uint8)

    from dfflib.data.pairs import _with_dummy_masks

    clip = _with_dummy_masks(Clip("long", Long()))  # 24 terabytes, were they stored
    assert clip.masks[9_999_999].shape == (480, 640) and not clip.masks[5].any() and len(clip.labelled) == 10_000_000


def test_still_and_moving_fields_both_occur_and_fields_are_smooth():
    flow = random_flow(600, (24, 32), 24.0, torch.Generator().manual_seed(0))
    longest = flow.norm(dim=1).amax((1, 2))
    assert 0.15 < (longest < 1).float().mean() < 0.4 and (longest > 4).float().mean() > 0.3
    assert longest.max() > 20 and flow.isfinite().all()
    assert (flow[..., 1:] - flow[..., :-1]).abs().amax((1, 2, 3)).max() < 0.35 * 24, "no jumps"
    assert flow.mean((0, 2, 3)).abs().max() < 1, "no direction is preferred"


def test_motion_scales_with_its_limit():
    one, two = (random_flow(4, (8, 9), limit, torch.Generator().manual_seed(0)) for limit in (5.0, 10.0))
    torch.testing.assert_close(2 * one, two)


class Plain:
    """A source of batches of one number."""

    def batch(self, size, seed, step):
        if step == 3:
            raise DffError("frame 3 is damaged: fetch it again.")
        return Batch(torch.full((size,), seed + step), torch.zeros(0))


SCRIPT = """
import sys
from tests.data import test_pairs as t
from dfflib.data.pairs import Steps
class Mine(t.Plain):
    pass
for source in (t.Plain(), Mine()):
    print([int(batch.key[0]) for batch in Steps(source, 2, 10).upcoming(range(3), 1)])
"""


@pytest.mark.parametrize("piped", [False, True])
def test_processes_need_no_main_guard(tmp_path, piped):
    """Nor do sources of classes of the script, which are asked in place."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-" if piped else str(script)], input=SCRIPT if piped else None, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=100, encoding="utf-8",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[10, 11, 12]\n" * 2), done.stderr


def test_an_error_in_a_process_arrives_as_it_was_raised_and_the_main_module_is_as_before():
    main = vars(sys.modules["__main__"])
    before = {name: main.get(name) for name in ("__file__", "__spec__")}
    batches = Steps(Plain(), 2, 10).upcoming(range(5), 1)
    assert [int(next(batches).key[0]) for _ in range(3)] == [10, 11, 12]
    assert {name: main.get(name) for name in before} == before
    with pytest.raises(DffError, match=r"^frame 3 is damaged: fetch it again\.$"):
        next(batches)
