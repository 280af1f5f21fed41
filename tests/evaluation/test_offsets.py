"""Metrics against torchmetrics, offsets against answers known by construction, and the format of results."""

import pandas as pd
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from dfflib import results
from dfflib.data.clips import IGNORE, Clip
from dfflib.errors import DffError
from dfflib.evaluation import average_over_offsets, by_offset, evaluated_frames
from dfflib.flow import Ablated, FlowSource
from dfflib.metrics import ConfusionMatrix
from dfflib.models.build import build
from dfflib.models.dff import DeepFeatureFlow

SIDE, EDGE = 16, 6  # pixels of the picture and of the square in it


class Brightness(nn.Module):
    """Features are the picture itself."""

    stride, channels = 1, 3

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images


class Scores(nn.Module):
    """Class 1 where the picture is white."""

    def forward(self, features):
        return torch.cat((1 - features[:, :1], features[:, :1]), 1)


class Shift(FlowSource):
    """The exact flow of `moving_square`: the number of the frame is in its blue channel."""

    def estimate(self, key, current, size):
        moved = ((current[:, 2, 0, 0] - key[:, 2, 0, 0]) * 255).round()
        flow = torch.zeros(len(key), 2, *size)
        flow[:, 0] = -moved[:, None, None]
        return flow, None


def moving_square(length=8, name="square") -> Clip:
    """A white square that moves right by one pixel a frame, with its mask."""
    frames = torch.zeros(length, 3, SIDE, SIDE, dtype=torch.uint8)
    for t in range(length):
        frames[t, :2, 4 : 4 + EDGE, 1 + t : 1 + t + EDGE] = 255
        frames[t, 2] = t
    return Clip(name, frames, masks=(frames[:, 0] > 0).long(), class_names=("ground", "square"))


def model() -> DeepFeatureFlow:
    return DeepFeatureFlow(Brightness(), Scores(), Shift())


@pytest.mark.parametrize("classes, drawn", [(2, 2), (4, 4), (5, 3)])
def test_confusion_matrix_agrees_with_torchmetrics(classes, drawn):
    rng = torch.Generator().manual_seed(classes)
    ours = ConfusionMatrix(classes)
    arguments = dict(num_classes=classes, ignore_index=IGNORE)
    counts = MulticlassConfusionMatrix(**arguments)
    jaccard = MulticlassJaccardIndex(**arguments, average="none")
    accuracy = MulticlassAccuracy(**arguments, average="micro")
    for _ in range(3):
        prediction = torch.randint(drawn, (2, 9, 11), generator=rng)
        truth = torch.randint(drawn, (2, 9, 11), generator=rng)
        truth[torch.rand(truth.shape, generator=rng) < 0.2] = IGNORE
        ours.update(prediction, truth)
        for theirs in (counts, jaccard, accuracy):
            theirs.update(prediction, truth)
    assert torch.equal(ours.counts, counts.compute())
    assert torch.allclose(ours.iou()[:drawn].float(), jaccard.compute()[:drawn])
    assert ours.iou()[drawn:].isnan().all()  # absent classes have no IoU and take no part in the mean
    assert ours.miou() == pytest.approx(jaccard.compute()[:drawn].mean().item())
    assert ours.accuracy() == pytest.approx(accuracy.compute().item())


def test_nothing_counted():
    empty = ConfusionMatrix(3)
    empty.update(torch.ones(4, dtype=torch.int64), torch.full((4,), IGNORE))
    assert empty.counts.sum() == 0 and empty.accuracy() == 0 and empty.miou() != empty.miou()


def value(table, method, offset, metric):
    chosen = table[(table.method == method) & (table.offset == offset) & (table.metric == metric)]
    assert len(chosen) == 1
    return chosen["value"].item()


def test_exact_flow_loses_nothing_and_copy_a_known_number_of_pixels():
    table = by_offset(model(), [moving_square()], 5)
    assert set(table["unit"]) == {"%"} and set(table["frames"]) == {4}
    for d in range(5):
        for metric in ("miou", "pixel_accuracy", "agreement_miou", "agreement"):
            assert value(table, "Frame", d, metric) == value(table, "DFF", d, metric) == 100
        wrong = 2 * min(d, EDGE) * EDGE  # what the square has left, and what it has come to
        right = (EDGE - d) * EDGE
        assert value(table, "copy", d, "pixel_accuracy") == pytest.approx(100 * (1 - wrong / SIDE**2))
        ground = SIDE**2 - right - wrong
        ious = right / (right + wrong), ground / (ground + wrong)
        assert value(table, "copy", d, "miou") == pytest.approx(50 * sum(ious))
        assert value(table, "copy", d, "agreement") == value(table, "copy", d, "pixel_accuracy")


def test_agreement_is_with_the_network_and_miou_with_the_labels():
    clip = moving_square()
    clip.masks = 1 - clip.masks  # all labels wrong
    table = by_offset(model(), [clip], 2, methods={"mine": Shift()})
    assert set(table["method"]) == {"Frame", "mine"}
    for d in (0, 1):
        assert value(table, "mine", d, "miou") == 0 and value(table, "mine", d, "agreement_miou") == 100


def test_a_frame_is_extracted_once_a_clip_and_a_flow_estimated_once_for_its_ablations():
    net, extracted, estimated = model(), [], []
    net.feature_net.register_forward_hook(lambda module, images, out: extracted.append(len(out)))
    net.flow_source.register_forward_hook(lambda module, args, out: estimated.append(len(out[0])))
    methods = {
        "DFF": net.flow_source,
        "still": Ablated(net.flow_source, flow=False),
        "S = 1": Ablated(net.flow_source, scale=False),
    }
    clips = [moving_square(name=name) for name in "ab"]
    table = by_offset(net, clips, 5, methods)
    assert sum(extracted) == 2 * 8 and estimated == [4] * 8  # four current frames a clip, four key frames each
    still = by_offset(model(), clips, 5)  # without anything shared: the same numbers
    for one, other in (("DFF", "DFF"), ("S = 1", "DFF"), ("still", "copy")):
        assert [value(table, one, d, "miou") for d in range(5)] == [value(still, other, d, "miou") for d in range(5)]


def test_ignored_pixels_do_not_count():
    clip = moving_square()
    clip.masks = clip.masks.clone()
    clip.masks[:, :, 8:] = IGNORE
    assert value(by_offset(model(), [clip], 1), "copy", 0, "pixel_accuracy") == 100


def test_pairs_stay_inside_a_shot():
    dark, bright = moving_square(6), moving_square(6)
    frames = torch.cat((dark.frames, 255 - bright.frames))
    clip = Clip("cut", frames, masks=torch.cat((dark.masks, bright.masks)), class_names=dark.class_names)
    assert evaluated_frames(clip, 1) == list(range(12))
    assert evaluated_frames(clip, 4) == [3, 4, 5, 9, 10, 11]
    assert evaluated_frames(clip, 4, step=2) == [3, 5, 10]
    clip.labelled = [4, 7]
    assert evaluated_frames(clip, 4) == [4]


def test_intervals_and_models_that_do_not_fit():
    for interval in (0, -1, 2.5):
        with pytest.raises(DffError, match="interval"):
            by_offset(model(), [moving_square()], interval)
    with pytest.raises(DffError, match="shorter than the clip"):
        by_offset(model(), [moving_square(4)], 5)
    with pytest.raises(DffError, match="5 classes"):
        by_offset(build(dict(num_classes=5), dict(channels=8), dict(width=0.03)), [moving_square()], 2)


def test_average_over_offsets_by_hand():
    rows = [dict(method=m, seed=s, offset=d, metric="miou", value=v, unit="%", frames=1)
            for m, s, values in (("copy", 0, (90, 80, 40)), ("copy", 1, (80, 70, 60)), ("DFF", 0, (90, 90, 60)))
            for d, v in enumerate(values)]  # fmt: skip
    table = pd.DataFrame([*rows, dict(rows[0], metric="pixel_accuracy", value=1)]).sample(frac=1, random_state=0)
    means = average_over_offsets(table).set_index(["method", "seed", "interval"])["value"].sort_index()
    assert means["copy", 0].to_dict() == {1: 90, 2: 85, 3: 70}
    assert means["copy", 1].to_dict() == {1: 80, 2: 75, 3: 70}
    assert means["DFF", 0].to_dict() == {1: 90, 2: 90, 3: 80}
    alone = average_over_offsets(table[table.seed == 0].drop(columns="seed"))
    assert list(alone.columns) == ["method", "interval", "value"] and len(alone) == 6


def test_results_have_the_same_columns_everywhere(tmp_path):
    table = by_offset(model(), [moving_square()], 2)
    rows = results.tidy(table, "mine", "square", interval=2, seed=7)
    assert list(rows.columns) == results.COLUMNS
    assert set(rows["seed"]) == {7} and set(rows["experiment"]) == {"mine"} and rows["seconds"].isna().all()
    path = results.write_results(rows, "01_mine", tmp_path)
    assert path == tmp_path / "results" / "01_mine.csv"
    again = pd.read_csv(path)
    assert list(again.columns) == results.COLUMNS and again["value"].tolist() == pytest.approx(rows["value"].tolist())
    assert [file.name for file in path.parent.iterdir()] == ["01_mine.csv"]


@pytest.mark.parametrize("label", [2, 3, 11, 254, 300, -1])
def test_a_label_of_no_class_is_refused_and_never_counted(label):
    good, bad = torch.zeros(4, 4, dtype=torch.int64), torch.zeros(4, 4, dtype=torch.int64)
    bad[0, 0] = label
    for pair in ((good, bad), (bad, good)):
        matrix = ConfusionMatrix(2)
        with pytest.raises(DffError, match=f"holds the label {label}: map"):
            matrix.update(*pair)
        assert matrix.counts.sum() == 0
    clip = moving_square()
    clip.masks = clip.masks.clone()
    clip.masks[6, 0, 0] = label
    with pytest.raises(DffError, match=f"frame 6 of square holds the label {label}"):
        by_offset(model(), [clip], 2)


def test_a_prediction_of_ignore_floats_and_shapes_that_do_not_fit_are_refused():
    good = torch.zeros(4, 4, dtype=torch.int64)
    for pair, said in (
        ((torch.full((4, 4), IGNORE), good), "a prediction holds the label 255"),
        ((good.float(), good), "whole numbers"),
        ((good, good[0]), "same pixels"),
        ((good, good[:, :1]), "same pixels"),
    ):
        with pytest.raises(DffError, match=said):
            ConfusionMatrix(2).update(*pair)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_narrow_labels_do_not_overflow(dtype):
    labels = torch.arange(100).clamp(max=99).view(10, 10).to(dtype)
    matrix = ConfusionMatrix(100)
    matrix.update(labels, labels)
    assert torch.equal(matrix.counts, torch.eye(100, dtype=torch.int64))
