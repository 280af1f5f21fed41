"""Shots: cuts are found, motion is no cut."""

import pytest
import torch

from dfflib.data.clips import Clip, pair_frames
from dfflib.data.shapes import ShapesClip
from dfflib.data.shots import Shots
from dfflib.data.stacks import LazyStack
from dfflib.data.video import sample_clip


def scenes(lengths=(9, 7, 8), colours=((200, 40, 40), (40, 180, 60), (60, 70, 220)), speed=3) -> Clip:
    """Scenes of different colour, each a texture that moves ``speed`` pixels a frame and twinkles a little."""
    rng = torch.Generator().manual_seed(0)
    frames = []
    for length, colour in zip(lengths, colours):
        coarse = torch.rand(1, 1, 12, 40, generator=rng) - 0.5
        texture = 80 * torch.nn.functional.interpolate(coarse, (60, 200), mode="bilinear")[0]
        for t in range(length):
            noise = 10 * torch.randn(1, 60, 80, generator=rng)
            picture = torch.tensor(colour).view(3, 1, 1) + texture[..., t * speed : t * speed + 80] + noise
            frames.append(picture.clamp(0, 255).to(torch.uint8))
    return Clip("scenes", torch.stack(frames))


def test_three_scenes_with_moving_texture():
    shots = Shots(scenes())
    assert shots.starts == [0, 9, 16] and len(shots) == 3


def test_every_frame_knows_its_shots_first():
    shots = Shots(scenes())
    assert [shots.start_of(i) for i in range(24)] == [0] * 9 + [9] * 7 + [16] * 8


@pytest.mark.parametrize("speed", [0, 1, 8])
def test_motion_alone_is_no_cut(speed):
    assert Shots(scenes((12,), speed=speed)).starts == [0]


def test_shots_of_one_frame():
    frames = torch.zeros(4, 3, 6, 5, dtype=torch.uint8)
    frames[1], frames[3] = 255, 255
    assert Shots(Clip("flicker", frames)).starts == [0, 1, 2, 3]
    assert Shots(Clip("one", frames[:1])).starts == [0]


def test_the_threshold_is_on_the_mean_absolute_change():
    frames = torch.zeros(3, 3, 30, 40, dtype=torch.uint8)
    frames[1:], frames[2:] = 51, 51 + 26  # changes of 0.2 and 0.102
    clip = Clip("steps", frames)
    assert (
        Shots(clip).starts == [0, 1]
        and Shots(clip, cut=0.1).starts == [0, 1, 2]
        and Shots(clip, cut=0.21).starts == [0]
    )


def test_the_bikes_clip_has_its_five_cuts():
    starts = Shots(sample_clip("bikes", 72)).starts
    assert len(starts) == 6 and starts[0] == 0
    assert all(abs(a - b) <= 1 for a, b in zip(starts[1:], (30, 76, 137, 187, 242))), starts


def test_a_clip_without_cuts_is_one_shot():
    assert Shots(sample_clip("carphone").window(0, 60)).starts == [0]


def test_pair_frames():
    clip = scenes((5,))
    key, current = pair_frames(clip, 1, 4)
    assert key.shape == current.shape == (1, 3, 60, 80) and key.dtype == torch.float32
    assert torch.equal((key[0] * 255).round().to(torch.uint8), clip.frames[1])
    assert torch.equal((current[0] * 255).round().to(torch.uint8), clip.frames[4])


def test_a_continuous_clip_is_one_shot_and_is_not_read():
    clip = ShapesClip(0, "hard", (16, 16), 500)
    clip.frames = LazyStack(lambda i: pytest.fail(f"frame {i} was read"), 500)
    assert Shots(clip).starts == [0]
