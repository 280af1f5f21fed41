"""The study: every row of the paper's Table 4 is counted, scene by scene, and the same whoever counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dfflib import profiles
from dfflib.data.shapes import ShapesClip
from dfflib.data.stacks import LazyStack
from dfflib.errors import DffError
from dfflib.evaluation import by_offset, comparisons, headline, variants
from dfflib.evaluation.scenes import Bootstrap, SceneCounts
from dfflib.flow import ExactFlow, ZeroFlow
from dfflib.metrics import ConfusionMatrix
from dfflib.models.dff import DeepFeatureFlow
from dfflib.profiles import Profile
from dfflib.results import COLUMNS
from dfflib.run import Run
from dfflib.training import recipes, train, trainer
from dfflib.training.stages import STAGES

SIZE = (32, 32)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Every network of the study small, trained for two steps on eight scenes."""
    steps = dict.fromkeys((*STAGES, "light"), 2)
    profile = Profile("tiny", "for tests", batch=2, max_interval=4, seeds=(0,), clips=3, study_steps=steps, scenes=8,
                      scenes_tested=4)  # fmt: skip
    monkeypatch.setitem(profiles.PROFILES, "tiny", profile)
    for module in (recipes, variants, comparisons):
        monkeypatch.setattr(module, "SHAPES_SIZE", SIZE)
    monkeypatch.setattr(recipes, "STUDY_CROP", (24, 24))
    monkeypatch.setattr(variants, "PART", 3)
    monkeypatch.setattr(trainer, "VALIDATION_BATCHES", 1)
    monkeypatch.setattr(train, "CHECKPOINTS", Path("nowhere"))
    monkeypatch.setattr(variants, "CHECKPOINTS", Path("nowhere"))
    for name in ("study", "study_no_scale", "study_light", "study_lighter"):
        model = recipes.get(name).model
        small = model | dict(features=dict(name="pyramid", channels=4), flow=model["flow"] | dict(width=0.25))
        monkeypatch.setitem(recipes.RECIPES, name, replace(recipes.get(name), model=small))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("variants")


@pytest.fixture
def trained(folder) -> Run:
    return Run.of("tiny", 0, folder)


def test_every_variant_is_counted_in_every_scene(trained):
    found = variants.counts(trained)
    assert found.methods == tuple(variants.VARIANTS) and found.scenes == 4
    pixels = SIZE[0] * SIZE[1]
    assert (found.true.sum(-1) == pixels).all() and found.true.shape == (variants.FAR, 4, 8)
    for name, variant in variants.VARIANTS.items():
        assert found.offsets(name) == variant.offsets
        m = found.methods.index(name)
        assert (found.given[m, : variant.offsets].sum(-1) == pixels).all() and (found.hit[m] <= found.given[m]).all()
    first = {name: found.given[found.methods.index(name), 0] for name in found.methods}
    for together in (("DFF", "copy", "exact", "DFF, S = 1", "DFF's N"), ("Frame", "SFF fast", "separate", "fix N")):
        assert all((first[name] == first[together[0]]).all() for name in together), "one N on key frames"


def test_counts_are_those_of_the_plain_model(trained):
    found = variants.counts(trained)
    model, clip = train.load(trained, ("joint",), "study"), ShapesClip(2_000_001, "study", SIZE, variants.FAR)
    for offset in (0, 3, 11):
        frames = [clip.frames[n][None] / 255 for n in (0, offset)]
        with torch.no_grad():
            labels = model(*frames, torch.tensor([offset == 0])).argmax(1)
        matrix = ConfusionMatrix(8)
        matrix.update(labels, clip.mask(offset)[None])
        hit = found.hit[found.methods.index("DFF"), offset, 1]
        assert np.abs(hit - matrix.counts.diag().numpy()).sum() <= 4, "equal but for ties and rounding"


def test_counting_continues_and_says_what_it_counted(trained, monkeypatch):
    few = {name: variants.VARIANTS[name] for name in ("Frame", "DFF")}
    whole = variants.count(trained, few, 5, split="val")
    monkeypatch.setattr(variants, "_Judge", None)  # nothing is counted again
    again = variants.count(trained, few, 5, split="val")
    assert (again.hit == whole.hit).all() and again.source == whole.source
    assert (variants.count(trained, few, 2, split="val", first=3).hit == whole.hit[:, :, 3:]).all()
    for arguments in (({}, 5), (few, 0), (few, 5, "study", "val", 1)):
        with pytest.raises(DffError, match="cannot be counted on"):
            variants.count(trained, *arguments)


def test_shipped_counts_serve_for_their_own_checkpoints_alone(trained, monkeypatch, tmp_path):
    few = {name: variants.VARIANTS[name] for name in ("Frame", "fix F")}
    monkeypatch.setattr(variants, "VARIANTS", few)
    monkeypatch.setattr(variants, "CHECKPOINTS", tmp_path)
    own = variants.counts(trained)

    def keep(source: str) -> None:
        """Ship counts that show."""
        SceneCounts(own.methods, 0 * own.hit, own.given, own.true, source).save(variants.kept_file(0))

    keep(own.source)
    assert not variants.counts(trained).hit.any()
    weights = variants.weights_of(own)
    assert set(weights) == {f"study_{stage}_s0.safetensors" for stage in ("frame", "fix_flow", "flow_pretrain")}
    for name, digest in weights.items():
        keep(own.source.replace(digest, "another"))
        assert (variants.counts(trained).hit == own.hit).all(), name

    # A profile that starts from what ships asks for no more than that.
    shipping = replace(trained, profile=replace(trained.profile, shipped=True))
    monkeypatch.setattr(train, "CHECKPOINTS", trained.folder / "checkpoints")
    monkeypatch.setattr(train, "train_stage", None)
    keep(own.source)
    kept = trained.folder / "checkpoints" / "study_fix_flow_s0.safetensors"
    away = kept.rename(tmp_path / "away")
    try:
        assert not variants.counts(shipping).hit.any()
    finally:
        away.rename(kept)


def test_the_headline_is_of_one_model(trained):
    fps = headline.speeds(trained, (1, 5), frames=10, rounds=1)
    assert set(fps["method"]) == set(headline.METHODS) - {"exact"} and (fps["value"] > 0).all()
    found = Bootstrap({0: variants.counts(trained)}, others=4)
    rows = headline.headline(found, fps)
    assert headline.table(rows, "miou").shape == (7, 2) and headline.table(rows, "fps").shape == (6, 2)
    assert headline.table(rows, "fps").loc["Light"].nunique() == 1
    gaps = variants.study_differences(found, (1, 5, 10))
    assert {"DFF minus Frame", "DFF minus Light", f"DFF minus {variants.LAST}"} <= set(gaps["method"])


def rival(fps, gaps):
    """Headline rows of DFF at l = 1, 2 beside a light network of 100 fps, and differences by their interval."""
    rows = [dict(method="DFF", interval=n, metric="fps", value=value) for n, value in enumerate(fps, 1)]
    rows += [dict(method="Light", interval=n, metric="fps", value=100) for n in (1, 2)]
    bounds = [dict(method="DFF minus Light", interval=n, metric=metric, value=value)
              for n, gap in enumerate(gaps, 1) for metric, value in zip(("low", "high"), gap, strict=True)]  # fmt: skip
    return headline.pd.DataFrame(rows), headline.pd.DataFrame(bounds)


def test_dff_beats_a_light_network_where_it_is_faster_and_better():
    assert headline.crossings(*rival((50, 150), ((1, 2), (1, 2))), "Light") == ([2], [])
    assert headline.crossings(*rival((50, 150), ((-2, -1), (-1, 2))), "Light") == ([], [1])


def test_errors_of_flow_are_those_of_known_fields(trained):
    table = comparisons.flow_errors(trained, offsets=(1, 3), stages=("flow_pretrain", "joint"))
    assert list(table.columns) == COLUMNS
    found = table.pivot_table(index=["method", "metric"], columns="offset", values="value")
    for offset in (1, 3):
        pairs = comparisons.ShapesPairs("test", "study", SIZE, length=3, interval=offset)
        mean = sum(pairs[n]["flow"].norm(dim=0).mean() for n in range(3)) / 3
        assert found.loc[("zero", "epe"), offset] == pytest.approx(mean.item(), rel=1e-4)
    assert found.loc[("DIS medium", "epe")].lt(found.loc[("zero", "epe")]).all()


def test_three_ways_to_warp_are_one_at_short_distance(trained):
    table = comparisons.ways_to_warp(trained, interval=4).pivot(index="method", columns="offset", values="value")
    assert table.shape == (3, 4) and table[0].nunique() == 1 and table[1].nunique() == 1, "one step is one flow"


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


def test_too_few_clips_are_refused():
    with pytest.raises(DffError, match="0 clips were asked for"):
        comparisons.study_clips(0, 5)
