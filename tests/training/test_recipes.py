"""Recipes: every stage of every recipe trains, starts from what it says, and learns what it says."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dfflib import profiles
from dfflib.errors import DffError
from dfflib.models import checkpoints
from dfflib.models.build import build, complete
from dfflib.profiles import Profile
from dfflib.run import Run
from dfflib.training import recipes, train, trainer
from dfflib.training.stages import PARTS, STAGES, for_stage
from tests.data.test_optical_flow import chairs, sintel

SMALL = dict(task=dict(num_classes=8), features=dict(channels=8), flow=dict(name="correlation", width=0.25))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    steps = dict.fromkeys((*STAGES, "light"), 2)
    profile = Profile(
        "tiny", "for tests", batch=2, max_interval=4, seeds=(0,), shapes_steps=steps, study_steps=steps, scenes=6
    )
    monkeypatch.setitem(profiles.PROFILES, "tiny", profile)
    monkeypatch.setattr(recipes, "SHAPES_SIZE", (32, 48))
    monkeypatch.setitem(recipes.RECIPES, "shapes", replace(recipes.RECIPES["shapes"], model=SMALL))
    monkeypatch.setattr(recipes, "STUDY_CROP", (24, 24))
    for name, recipe in recipes.RECIPES.items():
        if name.startswith("study"):
            narrow = dict(features=dict(name="pyramid", channels=4), flow=recipe.model["flow"] | dict(width=0.25))
            monkeypatch.setitem(recipes.RECIPES, name, replace(recipe, model=recipe.model | narrow))
    monkeypatch.setattr(trainer, "VALIDATION_BATCHES", 1)
    monkeypatch.setattr(train, "CHECKPOINTS", Path("nowhere"))


def go(stage, folder, recipe="shapes", seed=0, **options):
    return train.train_stage(Run.of("tiny", seed, folder), stage, recipe, progress=False, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tmp_path_factory.mktemp("shapes")


@pytest.mark.parametrize("recipe, level", [("shapes", "medium"), ("study", "study")])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_on_shapes_and_learns_its_parts(trained, monkeypatch, stage, recipe, level):
    if recipe == "study":
        monkeypatch.setattr(recipes, "SHAPES_SIZE", (32, 32))
    done = go(stage, trained, recipe)
    assert done.checkpoint.name == f"{recipe}_{stage}_s0.safetensors" and done.checkpoint.is_file()
    header = checkpoints.describe(done.checkpoint)[1]
    assert f"Shapes world, {level} level" in header["data"]
    now = checkpoints.load_weights(done.checkpoint)
    assert now and all(name.startswith(PARTS.get(stage, ("",))) for name in now)
    before = {}
    for start in recipes.get(recipe).starts(stage):
        before |= checkpoints.load_weights(train.ensure(Run.of("tiny", 0, trained), start, recipe))
    changed = {name for name in now if name in before and not torch.equal(now[name], before[name])}
    frozen = {"flow_detached": ("feature_net.", "task_net."), "fix_flow": ("flow_source.",)}.get(stage, ("none",))
    assert not any(name.startswith(frozen) for name in changed)
    if stage == "joint":
        assert any(name.startswith("feature_net.") for name in changed) and any(
            name.startswith("flow_") for name in changed
        )


def test_the_number_of_worker_processes_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "WORTH_WORKERS", 10_000)
    alone = go("keyframe", tmp_path / "alone", steps=3)
    monkeypatch.setattr(trainer, "WORTH_WORKERS", 1)
    helped = go("keyframe", tmp_path / "helped", steps=3)
    one, other = checkpoints.load_weights(alone.checkpoint), checkpoints.load_weights(helped.checkpoint)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_batches_of_the_key_frame_stage_are_single_frames():
    shapes, tiny = recipes.get("shapes"), profiles.get("tiny")
    batch = shapes.batches("keyframe", "val", tiny, Path()).batch(3, 0, 0)
    assert batch.is_key.all() and torch.equal(batch.key, batch.current)
    pairs = shapes.batches("joint", "train", tiny, Path()).batch(16, 0, 0)
    assert not pairs.is_key.all() and pairs.flow is not None


def test_dis_takes_the_place_of_the_flow_network():
    model = build(**SMALL)
    assert for_stage(model, "joint") is model
    dis = for_stage(model, "dis", ("dense", 2)).flow_source
    assert type(dis).__name__ == "DISFlow" and (dis.preset, dis.input_stride) == ("dense", 2)


def test_ways_to_train_are_compared_at_equal_training():
    """Every N of the study has as many steps on the same frames, and every stage that compares learns at one rate."""
    study, later = recipes.get("study"), ("frame", "flow_detached", "joint", "fix_flow", "dis")
    for profile in profiles.PROFILES.values():
        if profile.name != "tiny":
            assert len({study.steps(stage, profile) for stage in later}) == 1
    assert len({study.peak(stage) for stage in later}) == 1
    assert {stage: study.starts(stage)[0] for stage in later} == dict.fromkeys(later, "keyframe") | {
        "flow_detached": "frame"
    }
    assert [study.seed_of(stage, 2) for stage in STAGES] == [0, 0, 2, 2, 2, 2, 2]
    assert study.is_supplementary("joint", 1) and not study.is_supplementary("joint", 0)
    assert study.is_supplementary("keyframe", 0), "an hour and a half of one core"


def test_light_networks_have_a_length_of_their_own():
    laptop = profiles.get("laptop")
    assert recipes.get("study_light").steps("keyframe", laptop) == laptop.study_steps["light"]
    assert recipes.get("study").steps("keyframe", laptop) == laptop.study_steps["keyframe"]


def test_recipes_by_name():
    assert recipes.get("threshold").prefix == "" and recipes.get("shapes").prefix == "shapes_"
    assert recipes.get("shapes").starts("joint") == ("keyframe", "flow_pretrain")
    with pytest.raises(DffError, match="no recipe 'coco': choose one of threshold, shapes, study"):
        recipes.get("coco")


@pytest.mark.parametrize("name", [name for name in recipes.RECIPES if name.startswith("shapes_")])
def test_variations_share_what_they_can_and_train_jointly(trained, monkeypatch, name):
    for each in recipes.RECIPES.values():
        if each.name in (name, *recipes.get(name).shared.values()) and each.name != "shapes":
            features = each.model.get("features", {}) | dict(channels=4 if "small" in each.name else 8)
            narrow = each.model | dict(features=features, flow=each.model["flow"] | dict(width=0.25))
            monkeypatch.setitem(recipes.RECIPES, each.name, replace(each, model=narrow))
    done = train.train_stage(Run.of("tiny", 0, trained), "joint", name, progress=False)
    assert done.checkpoint.name == f"{name}_joint_s0.safetensors"
    config = checkpoints.describe(done.checkpoint)[0]
    assert config == complete(recipes.get(name).model)
    for stage, owner in recipes.get(name).shared.items():
        assert recipes.get(owner).owner(stage) == owner
        assert (trained / "checkpoints" / f"{owner}_{stage}_s0.safetensors").is_file()
        assert not (trained / "checkpoints" / f"{name}_{stage}_s0.safetensors").exists()


def camvid_copy(root, names):
    """A copy of CamVid's training split in SegNet's layout, with labels that follow the file's number."""
    for folder in ("train", "trainannot"):
        (root / "CamVid" / folder).mkdir(parents=True)
    for n, name in enumerate(names):
        Image.new("RGB", (64, 48), (40 * n % 256, 90, 10)).save(root / "CamVid" / "train" / f"{name}.png")
        Image.new("L", (64, 48), n % 11).save(root / "CamVid" / "trainannot" / f"{name}.png")


def test_camvid_trains_key_frames_and_holds_a_tenth_back(tmp_path, monkeypatch):
    camvid_copy(tmp_path, [f"0016E5_{n:05d}" for n in range(30, 30 * 21, 30)])
    monkeypatch.setenv("DFFLIB_DATA", str(tmp_path))
    tiny = replace(profiles.get("tiny"), short_side=48, crop=(32, 48))
    monkeypatch.setitem(profiles.PROFILES, "tiny", tiny)
    monkeypatch.setitem(
        recipes.RECIPES, "camvid", replace(recipes.get("camvid"), model={**SMALL, "task": dict(num_classes=11)})
    )
    parts = {part: recipes.get("camvid").batches("keyframe", part, tiny, tmp_path) for part in ("train", "val")}
    assert len(parts["train"].frames) == 18 and len(parts["val"].frames) == 2
    assert not set(parts["train"].frames) & set(parts["val"].frames)
    batch = parts["train"].batch(3, 0, 0)
    assert batch.is_key.all() and batch.labels.shape == (3, 32, 48)
    done = train.train_stage(Run.of("tiny", 0, tmp_path / "run"), "keyframe", "camvid", progress=False)
    assert done.checkpoint.name == "camvid_keyframe_s0.safetensors"
    assert "CamVid" in checkpoints.describe(done.checkpoint)[1]["data"]


def test_camvid_that_is_not_there_and_stages_that_it_cannot_train(tmp_path, monkeypatch):
    monkeypatch.setenv("DFFLIB_DATA", str(tmp_path))
    with pytest.raises(DffError, match=r"CamVid is missing .* set DFFLIB_DATA"):
        recipes.get("camvid").batches("keyframe", "train", profiles.get("tiny"), tmp_path)
    with pytest.raises(DffError, match="CamVid cannot train stage 'joint'"):
        recipes.get("camvid").batches("joint", "train", profiles.get("tiny"), tmp_path)


@pytest.mark.parametrize("name, copy", [("chairs", chairs), ("sintel", sintel)])
def test_flow_is_pre_trained_on_published_flow(tmp_path, monkeypatch, name, copy):
    monkeypatch.setenv("DFFLIB_DATA", str(tmp_path))
    with pytest.raises(DffError, match=r"is missing \(a copy of .* set DFFLIB_DATA"):
        train.train_stage(Run.of("tiny", out_dir=tmp_path / "run"), "flow_pretrain", name, progress=False)
    copy(tmp_path)
    monkeypatch.setitem(profiles.PROFILES, "tiny", replace(profiles.get("tiny"), crop=(32, 48)))
    monkeypatch.setitem(recipes.RECIPES, name, replace(recipes.get(name), model=SMALL))
    done = train.train_stage(Run.of("tiny", out_dir=tmp_path / "run"), "flow_pretrain", name, progress=False)
    assert done.checkpoint.name == f"{name}_flow_pretrain_s0.safetensors"
    assert "published optical flow" in checkpoints.describe(done.checkpoint)[1]["data"]
    with pytest.raises(DffError, match="cannot train stage 'joint': it has flow but no labels"):
        recipes.get(name).batches("joint", "train", profiles.get("tiny"), tmp_path)
