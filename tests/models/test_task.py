"""Tasks: what segmentation counts and shows, and that another task needs no other trainer, engine, table or checkpoint."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dfflib import profiles
from dfflib.data.clips import IGNORE, Clip
from dfflib.data.pairs import Batch
from dfflib.errors import DffError
from dfflib.evaluation import by_offset, offsets
from dfflib.inference import stream
from dfflib.inference.schedule import FixedInterval
from dfflib.models import checkpoints, headers
from dfflib.models.arguments import Argument
from dfflib.models.build import NETWORKS, Network, build
from dfflib.models.task import Segmentation, Task, best_classes
from dfflib.profiles import Profile
from dfflib.run import Run
from dfflib.training import recipes, stages, train, trainer
from dfflib.viz import overlay
from tests.inference.test_stream import write_video


class Errors:
    """Mean error of counts."""

    def __init__(self):
        self.found = []

    def update(self, results, truths):
        self.found += [abs(result - truth) for result, truth in zip(results, truths, strict=True)]

    @property
    def score(self):
        return sum(self.found) / len(self.found)

    def values(self):
        return {"count_error": (self.score, "px")}


class Counting(Task):
    """How many pixels of a frame are object. Results are plain numbers, N of them in a list."""

    arguments = {"hidden": Argument(4, (1, 64))}
    unit, agreement = "px count error", {"count_error": "count_difference"}

    def __init__(self, hidden=4):
        self.hidden = hidden

    def network(self, channels):
        return nn.Sequential(nn.Conv2d(channels, self.hidden, 1), nn.ReLU(), nn.Conv2d(self.hidden, 1, 1))

    def scores(self, output, size):
        return {"map": F.interpolate(output, size=size, mode="bilinear")[:, 0]}

    def loss(self, scores, batch):
        return F.binary_cross_entropy_with_logits(scores["map"], (batch.labels == 1).float())

    def results(self, scores):
        return (scores["map"] > 0).sum((1, 2)).tolist()

    def counts(self, clips=()):
        return Errors()

    def ground_truths(self, batch):
        return (batch.labels == 1).sum((1, 2)).tolist()

    def ground_truth(self, clip, index):
        return [(clip.masks[index] == 1).sum().item()]

    def draw(self, frame, result):
        return overlay(frame, torch.full(frame.shape[1:], result % 2))


def square(length=8) -> Clip:
    frames = torch.zeros(length, 3, 32, 40, dtype=torch.uint8)
    for t in range(length):
        frames[t, :, 8:20, t : t + 12] = 200
    return Clip("square", frames, masks=(frames[:, 0] > 0).long(), class_names=("ground", "square"))


@pytest.fixture
def counting(monkeypatch):
    """A recipe of the second task, of two steps a stage."""
    monkeypatch.setitem(NETWORKS["task"], "counting", Network(Counting, Counting.arguments))
    model = {"task": {"name": "counting", "hidden": 3}, "features": {"channels": 8}, "flow": {"width": 0.03}}
    numbers = dict(
        short_side=32, crop=(32, 32), batch=2, max_interval=4, seeds=(0,), steps=dict.fromkeys(stages.STAGES, 2)
    )
    monkeypatch.setitem(profiles.PROFILES, "tiny", Profile("tiny", "for tests", **numbers))
    monkeypatch.setitem(recipes.RECIPES, "threshold", replace(recipes.get("threshold"), model=model))
    monkeypatch.setattr(recipes, "threshold_set", lambda split, short_side: (square(),))
    monkeypatch.setattr(trainer, "VALIDATION_BATCHES", 1)
    return model


def test_a_second_task_is_trained_measured_saved_loaded_and_run(tmp_path, counting):
    done = train.train_stage(Run.of("tiny", out_dir=tmp_path), "joint", progress=False)
    assert "validation px count error" in done.summary and done.log["metric"].iloc[-1] >= 0
    config, about = checkpoints.describe(done.checkpoint)
    assert config["task"] == counting["task"] and about["stage"] == "joint"
    model = checkpoints.load_segmenter(done.checkpoint)
    assert type(model.task) is Counting and model.task_net[0].out_channels == model.task.hidden == 3

    table = by_offset(model, [square()], 3)
    assert set(table["metric"]) == {"count_error", "count_difference"} and set(table["unit"]) == {"px"}
    assert len(table) == 3 * 3 * 2
    at_the_key = table[(table["offset"] == 0) & (table["metric"] == "count_difference")]
    assert (at_the_key["value"] == 0).all()

    frames = list(square().frames)
    for mode in stream.MODES:
        found = [p.result for p in stream.predictions(model, frames, FixedInterval(3), mode=mode)]
        assert len(found) == 8 and all(type(result) is int for result in found)
    video = write_video(tmp_path / "in.mp4", frames)
    painted = stream.segment_video(video, tmp_path / "out.mp4", 3, done.checkpoint, progress=False)
    assert painted.frames == 8 and painted.key_frames == 3 and painted.out.is_file()


def test_arguments_of_a_second_task_are_checked(counting):
    assert build(**counting).task.hidden == 3
    with pytest.raises(DffError, match="hidden of task is 65: choose a whole number from 1 to 64"):
        build(task={"name": "counting", "hidden": 65})
    with pytest.raises(DffError, match="counting takes no argument 'num_classes' for task: choose from hidden"):
        build(task={"name": "counting", "num_classes": 2})


@pytest.mark.parametrize("module", [trainer, stages, train, stream, offsets, checkpoints, headers])
def test_no_other_module_knows_a_task_by_name(module):
    assert not {"Segmentation", "ConfusionMatrix", "count_pairs", "overlay"} & vars(module).keys()


def test_segmentation_learns_from_labelled_pixels_and_counts_label_maps():
    task, labels = Segmentation(3), torch.tensor([[[0, 1], [2, IGNORE]]])
    scores = 9.0 * F.one_hot(labels.clamp(max=2), 3).permute(0, 3, 1, 2)
    batch = Batch(torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2), labels)
    assert task.loss(scores, batch) < 1e-3 and torch.equal(task.results(scores), torch.tensor([[[0, 1], [2, 2]]]))
    counts = task.counts()
    counts.update(task.results(scores), task.ground_truths(batch))
    assert counts.score == 1 and counts.values() == {"miou": (100, "%"), "pixel_accuracy": (100, "%")}
    with pytest.raises(DffError, match="3 classes apart, but square has 2"):
        task.counts([square()])


@given(classes=st.integers(1, 23), batch=st.integers(1, 3), cells=st.tuples(st.integers(1, 9), st.integers(1, 9)),
       size=st.tuples(st.integers(1, 40), st.integers(1, 40)), channels_last=st.booleans(),
       dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), seed=st.integers(0, 99))  # fmt: skip
def test_best_classes_are_those_of_the_enlarged_scores(classes, batch, cells, size, channels_last, dtype, seed):
    scores = torch.randn(batch, classes, *cells, generator=torch.Generator().manual_seed(seed)).to(dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    found = best_classes(scores.contiguous(memory_format=layout), size)
    assert found.shape == (batch, *size) and found.dtype == torch.int64
    exact = F.interpolate(scores.double(), size=size, mode="bilinear")
    lost = exact.amax(1) - exact.gather(1, found[:, None])[:, 0]  # nothing, but where two classes are equally good
    assert lost.max() <= 8 * torch.finfo(dtype).eps * scores.abs().max()


def test_best_classes_of_equal_scores_is_the_first():
    for classes in (1, 2, 7, 300):
        assert not best_classes(torch.zeros(1, classes, 3, 4), (9, 8)).any()
