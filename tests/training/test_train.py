"""Training: what each stage learns, that runs repeat and continue bit for bit, and that failures are told in a sentence."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch

from dfflib import profiles
from dfflib.data.clips import Clip
from dfflib.data.threshold import threshold_clip
from dfflib.errors import DffError
from dfflib.locks import lock_stage
from dfflib.models import checkpoints
from dfflib.models.build import build
from dfflib.paths import ROOT
from dfflib.profiles import Profile
from dfflib.run import Run
from dfflib.training import recipes, stages, train, trainer

SMALL = dict(task=dict(num_classes=2), features=dict(channels=8), flow=dict(width=0.03))


def moving_clip(size=(40, 44), length=16, seed=0) -> Clip:
    """A smooth random picture that slides by one pixel a frame."""
    height, width = size
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(picture, (height, width + length), mode="bicubic").clamp(0, 1)[0]
    frames = torch.stack([(255 * picture[..., t : t + width]).to(torch.uint8) for t in range(length)])
    return threshold_clip(Clip("moving", frames))


def tiny_profile(name="tiny", steps=12, **changes) -> Profile:
    numbers = dict(short_side=40, crop=(32, 32), batch=2, max_interval=4, seeds=(0,)) | changes
    return Profile(name, "for tests", steps=dict.fromkeys(stages.STAGES, steps), **numbers)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A profile of a few steps on made-up clips with a narrow net, and states saved often."""
    monkeypatch.setitem(profiles.PROFILES, "tiny", tiny_profile())
    parts = {"train": (moving_clip(),), "val": (moving_clip(seed=1),), "test": (moving_clip(seed=2),)}
    monkeypatch.setattr(recipes, "threshold_set", lambda part, short_side: parts[part])
    use_model(monkeypatch, SMALL)
    monkeypatch.setattr(trainer, "LOG_EVERY", 2)
    monkeypatch.setattr(trainer, "SAVE_EVERY", 5)
    monkeypatch.setattr(trainer, "VALIDATE_EVERY", 4)
    monkeypatch.setattr(trainer, "VALIDATION_BATCHES", 1)


def use_model(monkeypatch, model: dict) -> None:
    monkeypatch.setitem(recipes.RECIPES, "threshold", replace(recipes.RECIPES["threshold"], model=model))


def go(stage, folder, **options):
    return train.train_stage(Run.of("tiny", options.pop("seed", 0), folder), stage, progress=False, **options)


def weights(trained):
    return checkpoints.load_weights(trained.checkpoint)


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def break_off(monkeypatch, after: int, error=KeyboardInterrupt):
    """From the step ``after`` on, training is broken off between two steps. Call the result to undo it."""
    original = trainer._Trainer._one_step

    def one_step(self):
        if self.step >= after:
            raise error
        return original(self)

    monkeypatch.setattr(trainer._Trainer, "_one_step", one_step)
    return lambda: monkeypatch.setattr(trainer._Trainer, "_one_step", original)


def states(folder):
    return sorted((folder / "train").glob("*.ckpt"))


def interrupted(monkeypatch, folder):
    """The state that a key-frame run leaves which is broken off after five steps."""
    undo = break_off(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        go("keyframe", folder)
    undo()
    return states(folder)[0]


@pytest.mark.parametrize("stage", ["keyframe", "flow_pretrain"])
def test_two_runs_end_with_the_same_weights(tmp_path, stage):
    first, second = go(stage, tmp_path / "a"), go(stage, tmp_path / "b")
    assert_same(weights(first), weights(second))
    pd.testing.assert_frame_equal(first.log.drop(columns="seconds"), second.log.drop(columns="seconds"))


def test_seeds_differ_but_share_the_pretraining(tmp_path):
    a, b = weights(go("keyframe", tmp_path, steps=1)), weights(go("keyframe", tmp_path, steps=1, seed=1))
    assert any(not torch.equal(a[n], b[n]) for n in a)
    assert go("flow_pretrain", tmp_path, seed=3, steps=1).checkpoint.name == "flow_pretrain_s0.safetensors"
    assert [recipes.get("threshold").seed_of(stage, 2) for stage in stages.STAGES] == [2, 0, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("stage, after", [("keyframe", 3), ("keyframe", 7), ("flow_pretrain", 7), ("joint", 6)])
def test_broken_off_and_continued_is_as_never_broken_off(tmp_path, monkeypatch, stage, after):
    for name in recipes.get("threshold").starts(stage):
        go(name, tmp_path / "a")
    if recipes.get("threshold").starts(stage):  # start from the very same files
        shutil.copytree(tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints")
    whole = go(stage, tmp_path / "a")
    undo = break_off(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        go(stage, tmp_path / "b")
    undo()
    assert len(states(tmp_path / "b")) == 1
    assert not (tmp_path / "b" / "checkpoints" / whole.checkpoint.name).exists()
    continued = go(stage, tmp_path / "b")
    assert_same(weights(whole), weights(continued))
    assert states(tmp_path / "b") == []
    assert continued.log["step"].tolist() == [2, 4, 6, 8, 10, 12]
    assert continued.log["seconds"].is_monotonic_increasing
    pd.testing.assert_frame_equal(whole.log.drop(columns="seconds"), continued.log.drop(columns="seconds"))


@pytest.mark.parametrize("moment", ["forward", "optimizer", "validation"])
def test_a_signal_in_the_middle_of_a_step_waits_for_its_end(tmp_path, monkeypatch, moment):
    """Half a step would change batch-norm statistics twice, or lose a row of the log."""
    whole = go("keyframe", tmp_path / "a")
    patch, pressed = pytest.MonkeyPatch(), []

    def press_in(owner, name, at):
        original, calls = getattr(owner, name), []

        def pressing(*args, **kwargs):
            result = original(*args, **kwargs)
            calls.append(1)
            if len(calls) == at:
                pressed.append(1)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
            return result

        patch.setattr(owner, name, pressing)

    if moment == "forward":
        press_in(trainer, "stage_loss", 7)
    elif moment == "optimizer":
        press_in(torch.optim.AdamW, "step", 7)
    else:
        press_in(trainer._Trainer, "_validate", 3)  # the last one: nothing is left to train
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        go("keyframe", tmp_path / "b")
    patch.undo()
    assert pressed and signal.getsignal(signal.SIGINT) is before
    continued = go("keyframe", tmp_path / "b")
    assert_same(weights(whole), weights(continued))
    pd.testing.assert_frame_equal(whole.log.drop(columns="seconds"), continued.log.drop(columns="seconds"))


def test_stopped_hard_in_the_middle_of_a_step_keeps_the_saved_state(tmp_path, monkeypatch):
    """A second Ctrl-C is obeyed at once: the run continues from the last saved step."""
    whole = go("keyframe", tmp_path / "a")
    original, calls = trainer.stage_loss, []

    def stage_loss(*args):
        calls.append(1)
        loss = original(*args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "stage_loss", stage_loss)
        with pytest.raises(KeyboardInterrupt):
            go("keyframe", tmp_path / "b")
    assert torch.load(states(tmp_path / "b")[0], weights_only=True)["step"] == 5
    assert_same(weights(whole), weights(go("keyframe", tmp_path / "b")))


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    first = go("keyframe", tmp_path)
    content = first.checkpoint.read_bytes()
    undo = break_off(monkeypatch, 0, AssertionError)
    again = go("keyframe", tmp_path)
    assert "before" in again.summary and again.checkpoint.read_bytes() == content
    with pytest.raises(AssertionError):
        go("keyframe", tmp_path, steps=15)  # other settings
    with pytest.raises(AssertionError):
        go("keyframe", tmp_path, fresh=True)
    undo()


def test_changed_settings_train_again_and_keep_the_old_result_until_done(tmp_path, monkeypatch):
    first = go("keyframe", tmp_path)
    content = first.checkpoint.read_bytes()
    undo = break_off(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        go("keyframe", tmp_path, steps=14)
    undo()
    assert first.checkpoint.read_bytes() == content
    second = go("keyframe", tmp_path, steps=14)
    assert "in place of a result of other settings and 12 steps" in second.summary
    assert second.log["step"].iloc[-1] == checkpoints.describe(first.checkpoint)[1]["steps"] == 14


def test_a_longer_result_is_replaced_only_on_request(tmp_path, monkeypatch):
    first = go("keyframe", tmp_path)
    content = first.checkpoint.read_bytes()
    with pytest.raises(DffError, match=r"trained for 12 steps, and this run of 1 would replace it: add --fresh"):
        go("keyframe", tmp_path, steps=1)
    assert first.checkpoint.read_bytes() == content
    assert go("keyframe", tmp_path, steps=1, fresh=True).log["step"].tolist() == [1]


def test_fresh_keeps_the_result_until_the_new_one_is_whole_and_then_continues(tmp_path, monkeypatch):
    first = go("keyframe", tmp_path)
    content, undo = first.checkpoint.read_bytes(), break_off(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        go("keyframe", tmp_path, fresh=True)
    undo()
    assert first.checkpoint.read_bytes() == content and len(states(tmp_path)) == 1
    assert "trained for 12 steps" in go("keyframe", tmp_path).summary and states(tmp_path) == []


@pytest.mark.parametrize(
    "damage", ["", "step,loss\n1,2\n", "step,loss,lr,metric,seconds\n1,x,1,1,1\n", "\0\xff", "cut"]
)
def test_a_result_whose_log_is_damaged_is_trained_again(tmp_path, damage):
    first = go("keyframe", tmp_path)
    log, content = tmp_path / "checkpoints" / "keyframe_s0.csv", weights(first)
    whole = log.read_text(encoding="utf-8")
    log.write_text("".join(whole.splitlines(True)[:-1]) if damage == "cut" else damage, encoding="latin-1")
    again = go("keyframe", tmp_path)
    assert "trained for 12 steps" in again.summary
    pd.testing.assert_frame_equal(first.log.drop(columns="seconds"), again.log.drop(columns="seconds"))
    assert_same(weights(again), content)


def test_a_damaged_result_is_replaced(tmp_path):
    first = go("keyframe", tmp_path)
    content = weights(first)
    first.checkpoint.write_bytes(first.checkpoint.read_bytes()[:1000])
    assert_same(weights(go("keyframe", tmp_path)), content)


def test_what_each_stage_learns_and_leaves_alone(tmp_path):
    files = {stage: weights(go(stage, tmp_path)) for stage in ("keyframe", "flow_pretrain", "flow_detached", "joint")}
    parts = {stage: {name.split(".")[0] for name in file} for stage, file in files.items()}
    assert parts["keyframe"] == {"feature_net", "task_net"}
    assert parts["flow_pretrain"] == parts["flow_detached"] == {"flow_source"}
    assert parts["joint"] == {"feature_net", "task_net", "flow_source"}
    assert all(name.startswith("flow_source.net.") for name in files["flow_pretrain"]), "the scale field comes later"
    moved = [n for n in files["flow_pretrain"] if not torch.equal(files["flow_pretrain"][n], files["flow_detached"][n])]
    assert (
        moved and files["flow_detached"]["flow_source.scale_head.weight"].any()
    )  # the flow network and the scale field
    before = files["keyframe"] | files["flow_detached"]
    still = [n for n in before if torch.equal(before[n], files["joint"][n])]
    statistics = [n for n in before if "running" in n or "batches" in n]
    assert set(statistics) <= set(still)  # batch norm uses what it has gathered
    assert {n.split(".")[0] for n in before if n not in still} == {"feature_net", "task_net", "flow_source"}


def test_flow_detached_does_not_touch_the_key_frame_model(monkeypatch, tmp_path):
    for stage in ("keyframe", "flow_pretrain"):
        go(stage, tmp_path)
    seen = []
    original = trainer._Trainer._save_result
    monkeypatch.setattr(
        trainer._Trainer, "_save_result", lambda self, s: (seen.append(self.model.state_dict()), original(self, s))
    )
    go("flow_detached", tmp_path)
    key = checkpoints.load_weights(tmp_path / "checkpoints" / "keyframe_s0.safetensors")
    assert_same({n: t for n, t in seen[0].items() if not n.startswith("flow_source")}, key)


def test_modes_and_learning_parameters():
    model = build(**SMALL)
    names = {}
    for stage in stages.STAGES:
        learning = {id(p) for p in stages.learning_parameters(model, stage)}
        names[stage] = {n for n, p in model.named_parameters() if id(p) in learning}
        stages.set_training_mode(model, stage)
        norms = [m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms and set(norms) == {stage == "keyframe"}
    assert names["joint"] == {n for n, _ in model.named_parameters()}
    assert names["flow_pretrain"] < names["flow_detached"]
    assert names["keyframe"] | names["flow_detached"] == names["joint"]
    assert not names["keyframe"] & names["flow_detached"]


def test_where_the_current_frame_is_the_key_frame_features_are_not_moved():
    torch.manual_seed(0)
    model = build(**SMALL).eval()

    class Far(torch.nn.Module):
        def forward(self, key, current, size):
            return torch.full((len(key), 2, *size), 3.0), None

    model = model.with_flow(Far())
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        scores, alone = model(image, image, torch.tensor([True, False])), model.per_frame(image)
    assert torch.equal(scores[0], alone[0]) and not torch.allclose(scores[1], alone[1])


def test_a_loss_that_is_no_number_stops_and_keeps_the_state(tmp_path, monkeypatch):
    state = interrupted(monkeypatch, tmp_path)
    content = state.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(
            trainer, "stage_loss", lambda model, stage, batch: model.per_frame(batch.key).sum() * float("nan")
        )
        with pytest.raises(DffError, match=r"loss of stage keyframe became nan at step 6.*last good state"):
            go("keyframe", tmp_path)
    assert state.read_bytes() == content
    assert go("keyframe", tmp_path).log["step"].iloc[-1] == 12


def test_a_gradient_that_is_no_number_stops_before_the_weights(tmp_path, monkeypatch):
    def stage_loss(model, stage, batch):  # the root's slope at zero is infinite
        return (model.per_frame(batch.key).sum() * 0).sqrt()

    monkeypatch.setattr(trainer, "stage_loss", stage_loss)
    with pytest.raises(DffError, match="gradient of stage keyframe became nan at step 1 ") as caught:
        go("keyframe", tmp_path)
    assert "last good state" not in str(caught.value)  # there is none yet
    assert not (tmp_path / "checkpoints").exists()


def test_a_damaged_state_names_the_remedy(tmp_path, monkeypatch):
    state = interrupted(monkeypatch, tmp_path)
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(DffError, match="--fresh"):
        go("keyframe", tmp_path)
    assert go("keyframe", tmp_path, fresh=True).log["step"].iloc[-1] == 12


def test_no_mutation_of_a_state_is_continued_from(tmp_path, monkeypatch):
    """Bytes of the file, and values that a file of the right form may hold."""
    state = interrupted(monkeypatch, tmp_path)
    content, choose = state.read_bytes(), random.Random(0)
    monkeypatch.setattr(trainer._Trainer, "_train", lambda self, progress: resumed.append(self.model.state_dict()))
    resumed, refused = [], 0
    monkeypatch.setattr(trainer._Trainer, "_trained", lambda self, how: None)
    go("keyframe", tmp_path)
    (good,) = resumed
    for n in range(60):
        mutated = bytearray(content)
        for _ in range(choose.choice((1, 1, 20))):
            mutated[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        state.write_bytes(mutated if n % 4 else mutated[: choose.randrange(len(content))])
        try:
            go("keyframe", tmp_path)
            assert_same(resumed[-1], good)  # the bit was in what zip files do not need
        except DffError as error:
            refused += 1
            assert "--fresh" in str(error) and "\n" not in str(error)
    assert refused > 40
    for _name, change in (
        ("model", lambda s: next(iter(s["model"].values())).fill_(float("nan"))),
        ("dtype", lambda s: s["model"].update({n: t.double() for n, t in s["model"].items()})),
        ("optimizer", lambda s: s["optimizer"]["state"][0]["exp_avg"].fill_(float("inf"))),
        ("step", lambda s: s.update(step=3)),
        ("rows", lambda s: s["rows"].clear()),
        ("digest", lambda s: s.pop("digest")),
    ):
        state.write_bytes(content)
        changed = torch.load(state, weights_only=True)
        change(changed)
        torch.save(changed, state)
        with pytest.raises(DffError, match="checksum"):
            go("keyframe", tmp_path)


def test_one_stage_is_trained_by_one_process(tmp_path):
    with lock_stage(tmp_path, "keyframe_s0"):
        with pytest.raises(DffError, match=r"keyframe_s0 in .* is in use by `dfflib train`, process \d+"):
            go("keyframe", tmp_path)
        go("flow_pretrain", tmp_path, steps=1)


def test_a_disk_that_is_full_leaves_the_last_state(tmp_path, monkeypatch):
    undo = break_off(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        go("keyframe", tmp_path)
    undo()
    content = states(tmp_path)[0].read_bytes()

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises((OSError, DffError), match="No space left"):
        patch.setattr(type(tmp_path), "write_bytes", full)
        go("keyframe", tmp_path)
    assert states(tmp_path)[0].read_bytes() == content
    assert [path for path in (tmp_path / "train").iterdir() if path.name.endswith(".part")] == []


def test_bad_names_and_numbers(tmp_path):
    for call, said in (
        (lambda: go("flow", tmp_path), "stage 'flow'"),
        (lambda: Run.of("huge", 0, tmp_path), "profile 'huge'"),
        (lambda: go("keyframe", tmp_path, steps=0), "0 training steps"),
    ):
        with pytest.raises(DffError, match=said):
            call()


def test_clips_smaller_than_the_crop_make_it_smaller(tmp_path, monkeypatch):
    """As in the profiles gpu and paper, where the narrowest clip is narrower than the crop."""
    monkeypatch.setitem(profiles.PROFILES, "tiny", tiny_profile(steps=1, crop=(40, 100)))
    assert all(go(stage, tmp_path).log["step"].tolist() == [1] for stage in ("keyframe", "flow_pretrain"))


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [trainer.learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(rates) == 1 and rates[5:] == sorted(rates[5:], reverse=True) and 0 < rates[-1] < 0.01
    assert trainer.learning_rate(0, 1, 0.5) == 0.5  # even a single step learns


def test_ensure_prefers_the_shipped_checkpoint_where_the_profile_says_so(tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    monkeypatch.setattr(train, "CHECKPOINTS", shipped)
    file = checkpoints.save_checkpoint(shipped / "keyframe_s0.safetensors", build(**SMALL), SMALL)
    own = train.ensure(Run.of("tiny", 0, tmp_path / "run"), "keyframe", progress=False)
    assert own.parent == tmp_path / "run" / "checkpoints"
    monkeypatch.setitem(profiles.PROFILES, "tiny", tiny_profile(shipped=True))
    run = Run.of("tiny", 0, tmp_path / "run")
    assert train.ensure(run, "keyframe", progress=False) == file
    assert train.ensure(run.with_seed(1), "keyframe", progress=False).name == "keyframe_s1.safetensors"


def test_loss_goes_down(tmp_path, monkeypatch):
    monkeypatch.setitem(profiles.PROFILES, "tiny", tiny_profile(steps=30, batch=4))
    use_model(monkeypatch, dict(task=dict(num_classes=2), flow=dict(width=0.03)))  # the workbook's key-frame network
    log = go("keyframe", tmp_path).log
    assert log["loss"].iloc[-3:].mean() < 0.8 * log["loss"].iloc[:3].mean()
    assert log["metric"].iloc[-1] > 0.5


DRIVER = """
import sys
sys.path.insert(0, {root!r})
from dataclasses import replace
import torch
from dfflib import profiles
from dfflib.training import recipes, trainer
from tests.training import test_train as t
from dfflib.cli import main
profiles.PROFILES["tiny"] = t.tiny_profile(steps=60)
clip = t.moving_clip()
recipes.threshold_set = lambda part, short_side: (clip,)
recipes.RECIPES["threshold"] = replace(recipes.RECIPES["threshold"], model=t.SMALL)
trainer.SAVE_EVERY, trainer.VALIDATE_EVERY = 1000, 1000
shown = trainer._Trainer._one_step
def one_step(self):
    if self.step == 3:
        print("running", flush=True)
    return shown(self)
trainer._Trainer._one_step = one_step
main(["train", "keyframe", "--profile", "tiny", "--out-dir", {out!r}, *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
def test_sigterm_at_the_command_line_leaves_a_state_that_continues(tmp_path):
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(root=str(ROOT), out=str(tmp_path / "run")), encoding="utf-8")
    command = [sys.executable, str(driver)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    assert "running" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "the same command continues" in err and "Traceback" not in err
    state = torch.load(states(tmp_path / "run")[0], weights_only=True)
    assert 3 < state["step"] < 60
    again = subprocess.run(command, capture_output=True, text=True, timeout=100, encoding="utf-8")
    assert again.returncode == 0, again.stderr
    log = pd.read_csv(tmp_path / "run" / "checkpoints" / "keyframe_s0.csv")
    assert log["step"].tolist() == list(range(10, 61, 10))
    assert states(tmp_path / "run") == []
