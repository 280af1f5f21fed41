"""Profiles: scales, and growing; and the machine in words."""

import dataclasses

import cv2
import pytest
import torch

from dfflib import machine, profiles
from dfflib.errors import DffError
from dfflib.training import stages


def test_the_profiles():
    assert list(profiles.PROFILES) == ["smoke", "laptop", "gpu", "paper", "shipped"]
    for name, profile in profiles.PROFILES.items():
        assert profiles.get(name) is profile and profile.name == name and profile.about


@pytest.mark.parametrize("name", ["", "Smoke", "huge", None])
def test_an_unknown_profile_is_refused_and_the_known_are_named(name):
    with pytest.raises(DffError) as caught:
        profiles.get(name)
    assert repr(name) in str(caught.value) and "smoke, laptop, gpu, paper" in str(caught.value)


def test_every_profile_has_every_stage_and_fits_its_frames():
    for profile in profiles.PROFILES.values():
        assert set(profile.steps) == set(stages.STAGES[:4])
        assert set(profile.shapes_steps) == set(stages.STAGES) - {"frame"}
        assert set(profile.study_steps) == {*stages.STAGES, "light"}
        assert min(*profile.steps.values(), *profile.shapes_steps.values(), *profile.study_steps.values()) > 0
        assert profile.crop[0] <= profile.short_side and all(side % 16 == 0 for side in profile.crop)
        assert profile.max_interval >= 5 and profile.batch > 0 and profile.eval_step > 0
        assert len(set(profile.seeds)) == len(profile.seeds) >= 3, "spreads are over three seeds"


def test_profiles_grow():
    smoke, laptop, gpu, paper = (profiles.get(name) for name in ("smoke", "laptop", "gpu", "paper"))
    for stage in stages.STAGES[:4]:
        assert smoke.steps[stage] < laptop.steps[stage] < gpu.steps[stage] < paper.steps[stage]
    for schedule, stage in [("shapes", stage) for stage in smoke.shapes_steps] + [
        ("study", s) for s in smoke.study_steps
    ]:
        steps = [profile.steps_of(schedule, stage) for profile in (smoke, laptop, gpu, paper)]
        assert steps == sorted(steps) and steps[0] < steps[1] < steps[2]
    assert paper.steps["joint"] == 20_000, "the paper's Cityscapes schedule"
    assert smoke.shipped and not laptop.shipped, "laptop makes everything from nothing"


def test_shipped_measures_what_laptop_measures():
    laptop, shipped = profiles.get("laptop"), profiles.get("shipped")
    for name in ("clips", "scenes_tested", "eval_step", "short_side", "seeds", "max_interval", "batch", "crop"):
        assert getattr(laptop, name) == getattr(shipped, name)
    assert shipped.shipped and shipped.steps == profiles.get("smoke").steps


def test_a_stage_that_a_profile_does_not_train_is_one_sentence():
    with pytest.raises(DffError, match="profile smoke does not train stage 'dis' of the threshold schedule: choose"):
        profiles.get("smoke").steps_of("threshold", "dis")


def test_a_profile_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        profiles.get("smoke").batch = 1


def test_the_device_is_described_in_words():
    text = machine.describe_device()
    assert text and "\n" not in text and (torch.cuda.is_available() or f"{torch.get_num_threads()} threads" in text)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_threads_share_the_items_and_their_results_keep_the_order(threads, count):
    parts, alone = [], []

    def squares(items: list[int]) -> list[int]:
        parts.append(items)
        alone.append(torch.get_num_threads() == 1)
        return [item**2 for item in items]

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = machine.in_threads(squares, range(count))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(found) == len(parts) == max(1, min(threads, count)) and all(alone) == (len(parts) > 1 or threads == 1)
    assert [n for part in found for n in part] == [n**2 for n in range(count)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_error_in_a_thread_comes_out_and_opencv_has_its_threads_back():
    before = cv2.getNumThreads()
    with pytest.raises(ZeroDivisionError):
        machine.in_threads(lambda items: [1 // item for item in items], [1, 0])
    assert cv2.getNumThreads() == before
