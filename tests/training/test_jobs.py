import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from click.testing import CliRunner

from dfflib import cli, paths
from dfflib.errors import DffError
from dfflib.run import Run
from dfflib.training import jobs as train_all
from dfflib.training import recipes, train, trainer
from dfflib.training.jobs import Job
from dfflib.workbook import publish

STUB = """
import json, select, sys, time
name, out, seconds, code = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
began = time.time()
print(f"{name}:  50%|#####     | 30/60 [00:01<00:01]", end="\\r", flush=True)
if select.select([0], [], [], seconds)[0]:  # its standard input is closed: it is to stop
    open(f"{out}/{name}.saved", "w").close()
    sys.exit(130)
json.dump([began, time.time()], open(f"{out}/{name}.json", "w"))
if code:
    print("error: the disk is full.", flush=True)
sys.exit(code)
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Stages that sleep instead of training: how long and how they end, by name."""
    script = tmp_path / "stub.py"
    script.write_text(STUB, encoding="utf-8")
    behaviour = {}

    def command(job, profile, folder):
        seconds, code = behaviour.get(job.name, (0.2, 0))
        return [sys.executable, str(script), job.name, str(tmp_path), str(seconds), str(code)]

    monkeypatch.setattr(train_all, "command", command)
    return behaviour


def spans(folder):
    """Name -> when a stub began and ended."""
    import json

    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}


def test_plan_holds_all_that_ships_and_all_that_it_starts_from():
    plan = train_all.plan(recipes.RECIPES, "laptop")
    assert {job.name for job in plan} >= set(publish.SHIPPED)
    assert all(before <= plan.keys() for before in plan.values())
    assert len({job.name for job in plan}) == len(plan), "nobody trains the same twice"


def test_plan_puts_the_longest_way_first():
    plan = list(train_all.plan(("threshold", "study"), "laptop"))
    assert plan[0] == Job("study", "flow_pretrain", 0)
    assert plan.index(Job("study", "keyframe", 0)) < plan.index(Job("study", "joint", 0))


def test_what_is_supplementary_can_be_left_out(monkeypatch):
    seeds = dict(keyframe=(0,), flow_pretrain=(0,), joint=(0, 1))
    monkeypatch.setitem(recipes.RECIPES, "study", replace(recipes.get("study"), seeds=seeds))
    both, one = (train_all.plan(["study"], "laptop", everything) for everything in (True, False))
    assert both.keys() - one.keys() == {Job("study", "joint", 1), Job("study", "keyframe", 0)}
    assert one[Job("study", "joint", 0)] == {Job("study", "flow_pretrain", 0)}
    assert not train_all.plan(["study_light"], "laptop", False)


def test_plan_knows_what_is_shared():
    plan = train_all.plan(["shapes_small_half_input"], "laptop")
    assert {job.name for job in plan} == {
        "shapes_small_half_input_joint_s0",
        "shapes_small_keyframe_s0",
        "shapes_flow_pretrain_s0",
    }


def test_stages_wait_for_what_they_start_from_and_share_the_machine(tmp_path, stub):
    lines = []
    done = train_all.train_all(Run.of("laptop", out_dir=tmp_path / "run"), ["threshold"], jobs=2, report=lines.append)
    plan, when = train_all.plan(["threshold"], "laptop"), spans(tmp_path)
    assert set(done) == set(plan) and len(when) == len(plan) == 10
    for job, before in plan.items():
        assert all(when[other.name][1] <= when[job.name][0] for other in before)
    together = [sum(a <= began < b for a, b in when.values()) for began, _ in when.values()]
    assert max(together) == 2
    assert sum("starts" in line for line in lines) == sum("done in" in line for line in lines) == 10


def test_a_stage_that_fails_stops_the_others_and_is_named(tmp_path, stub):
    stub["keyframe_s0"], stub["flow_pretrain_s0"] = (0.3, 2), (30, 0)
    with pytest.raises(DffError, match=r"training keyframe_s0 failed: the disk is full.*keyframe_s0\.log"):
        train_all.train_all(Run.of("laptop", out_dir=tmp_path / "run"), ["threshold"], jobs=2, report=lambda line: None)
    assert (tmp_path / "flow_pretrain_s0.saved").is_file(), "the other one was asked to save, and waited for"


def test_ctrl_c_lets_every_stage_save(tmp_path, stub):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # we may have been started with it ignored
    try:
        interrupted(tmp_path, stub)
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted(tmp_path, stub):
    """Ctrl-C while two stages are at work."""
    stub["keyframe_s0"] = stub["flow_pretrain_s0"] = (30, 0)
    threading.Timer(1.5, signal.raise_signal, (signal.SIGINT,)).start()
    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        train_all.train_all(Run.of("laptop", out_dir=tmp_path / "run"), ["threshold"], jobs=2, report=lambda line: None)
    assert {path.stem for path in tmp_path.glob("*.saved")} == {"flow_pretrain_s0", "keyframe_s0"}


def test_what_is_trained_is_left_alone(tmp_path, stub, monkeypatch):
    monkeypatch.setattr(train, "is_trained", lambda run, stage, *_: stage != "joint")
    done = train_all.train_all(
        Run.of("laptop", out_dir=tmp_path / "run"), ["threshold"], jobs=3, report=lambda line: None
    )
    assert {job.name for job in done} == {"joint_s0", "joint_s1", "joint_s2"}


def test_bar_reads_the_logs(tmp_path, stub, capsys):
    train_all.train_all(
        Run.of("laptop", out_dir=tmp_path / "run"), ["threshold"], jobs=4, report=lambda line: None, progress=True
    )
    assert " steps" in capsys.readouterr().err


def test_a_real_stage_is_trained_by_its_own_command(tmp_path):
    """The true command, as short as it can be: one stage of one recipe, with the profile that trains a minute."""
    job = Job("threshold", "keyframe", 0)
    line = [*train_all.command(job, "smoke", tmp_path), "--steps", "2"]
    assert subprocess.run(line, capture_output=True, timeout=300).returncode == 0
    assert (tmp_path / "checkpoints" / "keyframe_s0.safetensors").is_file()


def test_is_trained_wants_the_settings_of_today_and_every_stage_before(tmp_path):
    run = Run.of("smoke", 0, tmp_path)
    assert not train.is_trained(run, "keyframe")
    train.train_stage(run, "keyframe", steps=2, progress=False)
    assert not train.is_trained(run, "keyframe"), "two steps are not the profile's"
    assert not train.is_trained(Run.of("laptop", 0, tmp_path), "joint")


def test_recipes_that_stand_aside_are_taken_as_shipped_until_they_are_trained(tmp_path, monkeypatch):
    shipped = paths.CHECKPOINTS / "shapes_split_2_joint_s0.safetensors"
    run = Run.of("laptop", 0, tmp_path)
    assert train.ensure(run, "joint", "shapes_split_2") == shipped
    monkeypatch.setattr(train, "is_trained", lambda *_: True)
    monkeypatch.setattr(train, "train_stage", lambda *_, **__: trainer.Trained(tmp_path / "mine", None, ""))
    assert train.ensure(run, "joint", "shapes_split_2") == tmp_path / "mine"


def test_workers_share_the_cores():
    jobs, threads = train_all.workers()
    assert jobs >= 1 and threads >= 1
    assert train_all.workers(1000) == (1000, 1)


def test_command_line_names_what_it_did(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train_all, "train_all", lambda *arguments: seen.append(arguments) or [Job("shapes", "dis", 0)])
    result = CliRunner().invoke(
        cli.main, ["train-all", "shapes", "--jobs", "3", "--profile", "laptop", "--out-dir", str(tmp_path)]
    )
    assert result.exit_code == 0 and "1 stages trained" in result.output
    assert seen[0][:3] == (Run.of("laptop", 0, tmp_path), ("shapes",), 3)


def test_negative_jobs_are_refused(tmp_path):
    with pytest.raises(DffError, match="-1 stages"):
        train_all.train_all(Run.of("laptop", out_dir=tmp_path), ["threshold"], jobs=-1)
