"""The study of variants: every row of the paper's Table 4 is measured, and the upper bound is one."""

from dataclasses import replace

import pytest
import torch

from dfflib import profiles
from dfflib.data.shapes import ShapesClip
from dfflib.data.shapes.pairs import ShapesPairs
from dfflib.data.stacks import LazyStack
from dfflib.errors import DffError
from dfflib.evaluation import by_offset, variants
from dfflib.flow import ExactFlow, ZeroFlow
from dfflib.models.dff import DeepFeatureFlow
from dfflib.profiles import Profile
from dfflib.results import COLUMNS
from dfflib.run import Run
from dfflib.training import recipes, trainer
from dfflib.training.stages import STAGES

SMALL = dict(task=dict(num_classes=8), features=dict(channels=8), flow=dict(name="correlation", width=0.25))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    profile = Profile(
        "tiny", "for tests", batch=2, max_interval=4, seeds=(0,), clips=3, shapes_steps=dict.fromkeys(STAGES, 2)
    )
    monkeypatch.setitem(profiles.PROFILES, "tiny", profile)
    for module in (recipes, variants):
        monkeypatch.setattr(module, "SHAPES_SIZE", (32, 48))
    monkeypatch.setitem(recipes.RECIPES, "shapes", replace(recipes.RECIPES["shapes"], model=SMALL))
    monkeypatch.setattr(trainer, "VALIDATION_BATCHES", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("variants")


@pytest.fixture
def trained(folder) -> Run:
    return Run.of("tiny", 0, folder)


def test_every_variant_is_measured_at_every_offset(trained):
    table = variants.compare(trained, interval=4)
    assert list(table.columns) == COLUMNS and set(table["method"]) == set(variants.VARIANTS)
    miou = table[table["metric"] == "miou"].pivot(index="method", columns="offset", values="value")
    assert miou.shape == (len(variants.VARIANTS), 4) and miou.notna().all().all()
    assert (miou.loc["Frame"] == miou.loc["Frame", 0]).all()  # without a key frame there is no offset
    for together in (("DFF", "copy", "exact", "DFF, S = 1"), ("Frame", "SFF fast", "SFF slow", "separate", "fix N")):
        assert miou.loc[list(together), 0].nunique() == 1  # one N on key frames


def test_variations_are_named_as_asked(trained, monkeypatch):
    for name in ("shapes_no_scale", "shapes_split_2"):
        model = recipes.get(name).model
        small = {part: model.get(part, {}) | SMALL[part] for part in SMALL}
        monkeypatch.setitem(recipes.RECIPES, name, replace(recipes.get(name), model=small))
    names = {"DFF": "shapes", "DFF, S = 1": "shapes_no_scale", "split": "shapes_split_2"}
    table = variants.variations(trained, names, interval=3)
    found = table[table["metric"] == "miou"].pivot(index="method", columns="offset", values="value")
    assert set(found.index) == set(names) and found.shape == (3, 3)
    whole = variants.compare(trained, ["DFF"], 3)
    whole = whole[(whole["metric"] == "miou") & (whole["method"] == "DFF")].set_index("offset")["value"]
    assert found.loc["DFF"].tolist() == pytest.approx(whole.tolist(), abs=1e-6)


def test_errors_of_flow_are_those_of_known_fields(trained):
    table = variants.flow_errors(trained, offsets=(1, 3), stages=("flow_pretrain", "joint"))
    assert list(table.columns) == COLUMNS
    found = table.pivot_table(index=["method", "metric"], columns="offset", values="value")
    for offset in (1, 3):
        pairs = ShapesPairs("test", "medium", (32, 48), length=3, interval=offset)
        mean = sum(pairs[n]["flow"].norm(dim=0).mean() for n in range(3)) / 3
        assert found.loc[("zero", "epe"), offset] == pytest.approx(mean.item(), rel=1e-4)
    assert found.loc[("DIS medium", "epe")].lt(found.loc[("zero", "epe")]).all()


def test_three_ways_to_warp_are_one_at_short_distance(trained):
    table = variants.ways_to_warp(trained, interval=4).pivot(index="method", columns="offset", values="value")
    assert table.shape == (3, 4) and table[0].nunique() == 1 and table[1].nunique() == 1, "one step is one flow"
    frame = variants.compare(trained, ["Frame", "separate"], 4)
    separate = frame[(frame["method"] == "separate") & (frame["metric"] == "miou")].set_index("offset")["value"]
    assert table.loc["direct"].tolist() == pytest.approx(separate.tolist(), abs=0.2)


class Palette(torch.nn.Module):
    """Features that name the class: an oracle, so that propagation alone is measured."""

    stride, channels = 1, 3

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images


class Nearest(torch.nn.Module):
    """Scores by likeness to the colour of each class."""

    def __init__(self, colours):
        super().__init__()
        self.colours = colours

    def forward(self, features):
        return -(features[:, None] - self.colours[None, :, :, None, None]).abs().sum(2)


def test_exact_flow_is_better_than_copying_in_an_oracle_world():
    # Zeros, which the warp finds outside the picture, are the background's colour: hidden and entering pixels become it.
    colours = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    colours[0] = 0
    clip = ShapesClip(2_000_018, "medium", (64, 96), 12)
    clip.frames = LazyStack(lambda i: (colours[clip.masks[i]].permute(2, 0, 1) * 255).round().to(torch.uint8), 12)
    model = DeepFeatureFlow(Palette(), Nearest(colours), ZeroFlow(), padding_mode="zeros")
    table = by_offset(model, [clip], 6, {"copy": ZeroFlow(), "exact": ExactFlow(occlusion=True)}, step=2)
    miou = table[table["metric"] == "pixel_accuracy"].pivot(index="method", columns="offset", values="value")
    assert (miou.loc["Frame"] == 100).all() and miou.loc["exact", 0] == 100
    assert (miou.loc["exact", 1:] > miou.loc["copy", 1:] + 1).all()
    hidden = 100 * max(clip.occlusion(i, i - 5).float().mean().item() for i in (5, 7, 9, 11))
    assert miou.loc["exact", 5] > 100 - hidden - 2  # what is lost is what the key frame does not show


def test_unknown_variants_and_counts_are_refused():
    with pytest.raises(DffError, match="no variant 'magic': choose from Frame, SFF fast"):
        variants.compare(Run.of(), ["magic"])
    with pytest.raises(DffError, match="0 clips were asked for"):
        variants.test_clips(0, 5)
