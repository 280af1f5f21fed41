"""The command line is thin: what it passes on, what it prints, and how it exits."""

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
from click.testing import CliRunner

from dfflib import __version__, cli, paths
from dfflib.cli import main
from dfflib.errors import DffError
from dfflib.run import Run


def call(*arguments: str):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def stand_in(monkeypatch):
    """Put a function in place of a library module's; returns the list of its calls."""

    def install(module: str, name: str, result):
        calls = []

        def function(*args, **kwargs):
            calls.append((args, kwargs))
            if isinstance(result, BaseException):
                raise result
            return result

        stub = ModuleType(f"dfflib.{module}")
        setattr(stub, name, function)
        stub.default_out = lambda video: Path(f"{Path(video).stem}_dff.mp4")  # of dfflib.inference.stream
        monkeypatch.setitem(sys.modules, f"dfflib.{module}", stub)
        return calls

    return install


def summary(*failed: str):
    return SimpleNamespace(failed=[SimpleNamespace(error=text) for text in failed], __str__=lambda self: "")


def test_help_is_quick_and_imports_no_torch():
    code = "import sys, dfflib.cli as c\ntry: c.main(['--help'])\nfinally: print('torch' in sys.modules)"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert time.perf_counter() - began < 5  # 0.2 s on an idle machine
    assert done.stdout.strip().endswith("False"), done.stderr
    for command in ("reproduce", "segment", "train", "evaluate"):
        assert command in done.stdout


def test_version_also_as_a_module():
    assert call("--version").output == f"dfflib, version {__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "dfflib", "--version"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert done.stdout == f"dfflib, version {__version__}\n"


def test_reproduce_passes_everything_on(stand_in):
    calls = stand_in("workbook.reproduce", "reproduce", summary())
    result = call("reproduce", "--profile", "gpu", "--only", "02", "--only", "05,06", "-p", "seed=3", "-p", "name=a=b",
                  "--force", "--out-dir", "there")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert calls == [(("gpu", ("02", "05,06"), {"seed": "3", "name": "a=b"}, True, "there"), {"jobs": 0})]


def test_reproduce_exits_1_when_a_notebook_failed(stand_in):
    stand_in("workbook.reproduce", "reproduce", summary("02_warp failed in cell [3]: clip.mp4 is missing"))
    result = call("reproduce")
    assert result.exit_code == 1
    assert "error: 02_warp failed in cell [3]: clip.mp4 is missing\n" in result.stderr


def test_a_parameter_needs_a_name_and_a_value():
    result = call("reproduce", "-p", "seed")
    assert result.exit_code == 2 and result.stderr == (
        "error: parameter 'seed' is not of the form NAME=VALUE: write, say, -p seed=1.\n"
    )


def test_unknown_profile_is_one_sentence():
    result = call("reproduce", "--profile", "enormous")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: there is no profile 'enormous'") and result.stderr.count("\n") == 1


def segmented(problem=None, remarks=()):
    return SimpleNamespace(
        frames=120, seconds=4.0, fps=30.0, key_frames=24, out=Path("out.mp4"), problem=problem, remarks=list(remarks)
    )


def test_segment_passes_everything_on_and_sums_up(stand_in):
    calls = stand_in("inference.stream", "segment_video", segmented())
    result = call(
        "segment", "in.mp4", "--interval", 7, "--flow", "dis", "--short-side", 200, "--checkpoint", "c.safetensors"
    )
    assert result.exit_code == 0
    assert result.output == "120 frames (24 key frames) in 4.0 s, 30.0 frames a second: out.mp4\n"
    assert calls == [(("in.mp4",), dict(
        out=Path("in_dff.mp4"), interval=7, checkpoint="c.safetensors", flow="dis", short_side=200, progress=True,
        mode="batched", labels="full", compile=False, fps=None,
    ))]  # fmt: skip


def test_segment_exits_3_when_the_video_ended_badly(stand_in):
    stand_in("inference.stream", "segment_video", segmented("in.mp4 ends in the middle of frame 121."))
    result = call("segment", "in.mp4")
    assert result.exit_code == 3
    assert result.stderr == "in.mp4 ends in the middle of frame 121.\n" and "120 frames" in result.stdout


def test_segment_tells_what_to_know_of_a_video(stand_in):
    calls = stand_in("inference.stream", "segment_video", segmented(remarks=["in.ts does not state its length."]))
    result = call("segment", "in.ts", "--fps", "12.5")
    assert result.exit_code == 0 and calls[0][1]["fps"] == 12.5
    assert result.stderr == "in.ts does not state its length.\n"


def test_segment_overwrites_only_when_told(stand_in, tmp_path):
    calls = stand_in("inference.stream", "segment_video", segmented())
    out = tmp_path / "mine.mp4"
    out.touch()
    result = call("segment", "in.mp4", "--out", out)
    assert result.exit_code == 2 and "add --force to overwrite it" in result.stderr and not calls
    assert call("segment", "in.mp4", "--out", out, "--force").exit_code == 0 and len(calls) == 1


def test_bench_measures_and_shows_tables(stand_in, monkeypatch, tmp_path):
    calls = stand_in("evaluation.bench", "bench", "rows")
    stub = sys.modules["dfflib.evaluation.bench"]
    stub.summary = lambda rows: {"parts": pd.DataFrame({"key": [1.234]})} if rows == "rows" else {}
    monkeypatch.setattr("dfflib.evaluation.bench", stub, raising=False)
    result = call("bench", "--size", "64x48", "--threads", 2, "--out-dir", tmp_path)
    assert result.exit_code == 0 and calls == [(((48, 64), 10, "", 2, tmp_path), {})]
    assert "parts" in result.output and "1.23" in result.output and "results/bench.csv" in result.output


def test_train_passes_everything_on(stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = stand_in("training.train", "train_stage", SimpleNamespace(digest="abc", summary="joint trained: x"))
    result = call("train", "joint", "--profile", "laptop", "--seed", 2, "--out-dir", "there", "--steps", 9, "--fresh")
    assert (result.exit_code, result.output) == (
        0,
        "joint trained: x\nSHA-256 of its weights as they would ship: abc\n",
    )
    ((arguments, options),) = calls
    assert arguments == (Run.of("laptop", 2, tmp_path / "there"), "joint")
    assert options == dict(steps=9, fresh=True, progress=True, recipe="threshold")


def test_interrupted_training_says_how_to_continue(stand_in):
    stand_in("training.train", "train_stage", KeyboardInterrupt())
    result = call("train", "joint")
    assert result.exit_code == 130
    assert result.stderr == "stopped at stage joint; the same command continues.\n"


def test_evaluate_prints_a_compact_table(stand_in):
    rows = [(method, offset, "miou", 90.123456 - offset) for method in ("copy", "DFF") for offset in range(3)]
    table = pd.DataFrame(rows, columns=["method", "offset", "metric", "value"])
    calls = stand_in("evaluation.offsets", "evaluate_checkpoint", table)
    result = call("evaluate", "--interval", 3, "--seed", 1, "--out", "t.csv")
    assert result.exit_code == 0
    expected = dict(interval=3, out="t.csv", progress=True, force=False)
    assert calls == [((Run.of("smoke", 1), ""), expected)]
    assert "90.12" in result.output and "88.12" in result.output and result.output.endswith("written to t.csv\n")
    assert len(result.output.splitlines()) == 5  # two of heading, one for each method, where it is written


@pytest.mark.parametrize("error, code, text", [
    (DffError("frames/ is empty: name another folder."), 2, "error: frames/ is empty: name another folder.\n"),
    (KeyboardInterrupt(), 130, "stopped.\n"),
])  # fmt: skip
def test_errors_become_sentences_and_exit_codes(stand_in, error, code, text):
    stand_in("inference.stream", "segment_video", error)
    result = call("segment", "x")
    assert (result.exit_code, result.stderr) == (code, text)


def test_a_bug_keeps_its_traceback(stand_in):
    stand_in("inference.stream", "segment_video", ZeroDivisionError("bug"))
    result = call("segment", "x")
    assert result.exit_code == 1 and isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "arguments", [("train", "everything"), ("segment", "x", "--flow", "magic"), ("segment",), ("fly",)]
)
def test_wrong_usage_exits_2(arguments):
    result = call(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output


def test_the_command_knows_every_stage_without_asking_torch():
    from dfflib.training import stages

    assert cli.STAGES == stages.STAGES
