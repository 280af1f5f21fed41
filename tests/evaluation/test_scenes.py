"""Counts by scene and the intervals made of them, against sums by hand and against sets of scenes that were drawn anew."""

import numpy as np
import pytest
import torch

from dfflib.errors import DffError
from dfflib.evaluation.scenes import Bootstrap, Interval, SceneCounts, by_offset, differences, measured
from dfflib.metrics import ConfusionMatrix


def labels(rng, truth, wrong):
    """A label map that is wrong in a share of the pixels."""
    other = rng.integers(3, size=truth.shape)
    return torch.from_numpy(np.where(rng.random(truth.shape) < wrong, other, truth))


def counted(rng, scenes, wrong, truths=None):
    """Counts of methods that are wrong so often, some scenes harder than others."""
    found = SceneCounts.empty(list(wrong), 2, scenes, 3, "here")
    truths = [rng.integers(3, size=(1, 6, 6)) for _ in range(scenes)] if truths is None else truths
    for scene, truth in enumerate(truths):
        hard = rng.uniform(0.5, 1.5)
        for method, share in wrong.items():
            results = [labels(rng, truth, share * hard * (1 + offset)) for offset in range(2)]
            found.count(scene, method, torch.cat(results), torch.from_numpy(truth).expand(2, -1, -1))
    return found


def test_iou_is_that_of_one_confusion_matrix_over_all_scenes():
    rng = np.random.default_rng(0)
    truths = torch.from_numpy(rng.integers(3, size=(4, 1, 5, 7)))
    results = torch.from_numpy(rng.integers(3, size=(4, 1, 5, 7)))
    found, matrix = SceneCounts.empty(["a"], 1, 4, 3), ConfusionMatrix(3)
    for scene in range(4):
        found.count(scene, "a", results[scene], truths[scene])
        matrix.update(results[scene], truths[scene])
    assert found.iou("a", np.ones((1, 4)))[0, 0] == pytest.approx(100 * matrix.miou(), abs=1e-6)
    twice = ConfusionMatrix(3)
    for scene in (0, 0, 3):
        twice.update(results[scene], truths[scene])
    assert found.iou("a", np.array([[2.0, 0, 0, 1]]))[0, 0] == pytest.approx(100 * twice.miou(), abs=1e-6)


def test_a_class_that_is_nowhere_does_not_count():
    found = SceneCounts.empty(["a"], 1, 1, 5)
    found.count(0, "a", torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert found.iou("a", np.ones((1, 1)))[0, 0] == 100


def test_counts_survive_their_file(tmp_path):
    found = counted(np.random.default_rng(1), 3, {"a": 0.1, "b": 0.3})
    again = SceneCounts.load(found.save(tmp_path / "counts.npz"))
    assert again.methods == found.methods and again.source == "here"
    for name in ("hit", "given", "true"):
        assert (getattr(again, name) == getattr(found, name)).all()
    (tmp_path / "counts.npz").write_bytes(b"no counts")
    with pytest.raises(DffError, match=r"counts.npz holds no counts .*: delete it, and measure again"):
        SceneCounts.load(tmp_path / "counts.npz")


def test_offsets_have_labels_of_their_own():
    rng = np.random.default_rng(6)
    truths, results = (torch.from_numpy(rng.integers(3, size=(2, 5, 7))) for _ in range(2))
    found = SceneCounts.empty(["a", "near"], 2, 1, 3)
    found.count(0, "a", results, truths)
    found.count(0, "near", results[:1], truths[:1])
    for offset in range(2):
        matrix = ConfusionMatrix(3)
        matrix.update(results[offset], truths[offset])
        assert found.iou("a", np.ones((1, 1)))[0, offset] == pytest.approx(100 * matrix.miou(), abs=1e-6)
    assert found.offsets("near") == 1 and found.iou("near", np.ones((1, 1))).shape == (1, 1)
    with pytest.raises(DffError, match="near was measured at 1 offsets only, not at 2"):
        Bootstrap({0: found}).miou("near", 2)
    table = measured(Bootstrap({0: found}), ["a", "near"], (1, 2))
    assert set(table.loc[table["method"] == "near", "interval"]) == {1}
    alone = by_offset(found).set_index(["method", "offset"])["value"]
    assert len(alone) == 3 and alone["a", 1] == pytest.approx(found.iou("a", np.ones((1, 1)))[0, 1], abs=1e-4)


def test_parts_make_the_whole():
    rng = np.random.default_rng(7)
    truths = [rng.integers(3, size=(1, 6, 6)) for _ in range(5)]
    whole = counted(np.random.default_rng(8), 5, {"a": 0.2}, truths)
    total = SceneCounts.empty(["a"], 2, 5, 3)
    total.put(0, whole.first(2))
    rest = SceneCounts(whole.methods, whole.hit[:, :, 2:], whole.given[:, :, 2:], whole.true[:, 2:])
    total.put(2, rest)
    for name in ("hit", "given", "true"):
        assert (getattr(total, name) == getattr(whole, name)).all()


def test_the_last_offset_stands_below_the_average():
    bootstrap = Bootstrap({0: counted(np.random.default_rng(9), 40, {"a": 0.1})}, others=40)
    found = bootstrap.average_above_last("a", 2)
    assert found.low > 0 and found.value == pytest.approx(
        bootstrap.miou("a", 2).value - bootstrap.miou("a", 2, last=True).value, abs=1e-4
    )


def test_a_difference_is_paired():
    rng = np.random.default_rng(3)
    bootstrap = Bootstrap({0: counted(rng, 60, {"good": 0.1, "bad": 0.25})}, others=60)
    gap = bootstrap.difference("good", "bad", 2)
    assert gap.excludes_zero and gap.low < gap.value < gap.high
    assert gap.value == pytest.approx(bootstrap.miou("good", 2).value - bootstrap.miou("bad", 2).value, abs=1e-4)
    same = bootstrap.difference("good", "good", 2)
    assert same == Interval(0, 0, 0) and not same.excludes_zero
    apart = bootstrap.miou("good", 2), bootstrap.miou("bad", 2)
    assert gap.high - gap.low < sum(one.high - one.low for one in apart) / 1.4, "scenes are hard for both"


def test_intervals_cover_another_set_of_scenes():
    inside = 0
    for trial in range(40):
        rng = np.random.default_rng(100 + trial)
        wrong = {"a": 0.2, "b": 0.25}
        here, there = (Bootstrap({0: counted(rng, 40, wrong)}, others=40) for _ in range(2))
        found, other = here.difference("a", "b", 1), there.difference("a", "b", 1)
        inside += found.low <= other.value <= found.high
    assert 34 <= inside <= 40  # 38 of 40 on average


def test_seeds_are_averaged_within_a_draw():
    rng = np.random.default_rng(4)
    truths = [rng.integers(3, size=(1, 6, 6)) for _ in range(10)]
    counts = {seed: counted(rng, 10, {"a": 0.1 * (1 + seed)}, truths) for seed in range(2)}
    each = [Bootstrap({seed: one}).miou("a", 1).value for seed, one in counts.items()]
    assert Bootstrap(counts).miou("a", 1).value == pytest.approx(np.mean(each), abs=1e-4)


def test_differences_say_how_many_seeds_and_scenes():
    rng = np.random.default_rng(5)
    truths = [rng.integers(3, size=(1, 6, 6)) for _ in range(5)]
    both, one = counted(rng, 5, {"a": 0.1, "b": 0.2}, truths), counted(rng, 5, {"a": 0.1}, truths)
    bootstrap = Bootstrap({0: both, 1: one})
    table = differences(bootstrap, [("a", "b")], (1, 2)).set_index(["interval", "metric"])["value"]
    assert table[1, "seeds"] == 1 and table[2, "scenes"] == 5 and table[1, "low"] <= table[1, "difference"]
    with pytest.raises(DffError, match="no seed has both a and c"):
        bootstrap.difference("a", "c", 1)
    with pytest.raises(DffError, match="different scenes"):
        Bootstrap({0: both, 1: counted(rng, 5, {"a": 0.1})})
