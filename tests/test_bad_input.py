"""Everything that can be wrong with what is asked for: one sentence, exit code 2, and nothing already there is touched."""

import os
import shutil
import subprocess
import sys

import av
import click
import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dfflib import limits, paths
from dfflib.cli import main
from dfflib.models.build import build
from dfflib.models.checkpoints import save_checkpoint
from dfflib.paths import ROOT
from dfflib.training import jobs  # noqa: F401  before work is barred
from tests.inference.test_stream import SMALL, frames, write_video

PRECIOUS = b"the result of last week"


def images(folder, sizes, suffix="png"):
    folder.mkdir()
    for i, size in enumerate(sizes):
        picture = np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i:02}.{suffix}"), picture)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One of everything, good and bad."""
    here = tmp_path_factory.mktemp("input")
    torch.manual_seed(0)
    save_checkpoint(here / "good.safetensors", build(**SMALL), SMALL, stage="joint")
    save_checkpoint(here / "other.safetensors", build(**SMALL), SMALL | dict(features=dict(channels=16)))
    five = SMALL | dict(task=dict(num_classes=5))
    save_checkpoint(here / "five.safetensors", build(**five), five)
    save_checkpoint(here / "flow.safetensors", build(**SMALL), SMALL, parts=("flow_source.",))
    good = (here / "good.safetensors").read_bytes()
    (here / "damaged.safetensors").write_bytes(good[: len(good) // 2])
    (here / "text.safetensors").write_text("not weights", encoding="utf-8")
    write_video(here / "good.mp4", frames(6))
    write_video(here / "one.mp4", frames(1))
    write_video(here / "tiny.mp4", frames(6, (2, 2)))
    with av.open(str(here / "late.mp4"), "w") as container:  # index at the end, so the cut takes it
        track = container.add_stream("libx264", rate=10)
        track.width, track.height, track.pix_fmt = 40, 32, "yuv420p"
        for picture in frames(6):
            picture = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(track.encode(picture))
        container.mux(track.encode(None))
    late = (here / "late.mp4").read_bytes()
    (here / "cut.mp4").write_bytes(late[: late.index(b"moov") - 4])
    with av.open(str(here / "none.mkv"), "w") as container:
        track = container.add_stream("libx264", rate=10)
        track.width, track.height, track.pix_fmt = 40, 32, "yuv420p"
        container.start_encoding()
    (here / "notes.mp4").write_text("not a video\n" * 30, encoding="utf-8")
    (here / "zero.mp4").write_bytes(b"")
    (here / "no_images").mkdir()
    images(here / "mixed", [(20, 30), (20, 30), (22, 30)])
    images(here / "small", [(3, 30)] * 3)
    return here


def refused(folder, *arguments):
    """The sentence that the command line refuses with."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    shown = [line.rpartition("\r")[2] for line in result.stderr.split("\n")]  # as a terminal leaves it: no progress bar
    lines = [line for line in shown if line.strip()]
    assert lines[-1].startswith(("error: ", "Error: ")) and "Traceback" not in result.output
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return lines[-1] if lines[0].startswith("Usage:") else "\n".join(lines)


VIDEOS = {
    "missing.mp4": "does not exist", "notes.mp4": "not a video", "cut.mp4": "cut short", "zero.mp4": "empty",
    "none.mkv": "no", "tiny.mp4": "stride of 4", "no_images": "no images",
    "mixed": "resize the images", "small": "stride of 4",
}  # fmt: skip


@pytest.mark.parametrize("name, said", VIDEOS.items())
def test_videos(folder, tmp_path, name, said):
    out = tmp_path / "out.mp4"
    out.write_bytes(PRECIOUS)
    interval = 2 if name in ("mixed", "small") else 5
    line = refused(folder, "segment", folder / name, "--checkpoint", folder / "good.safetensors",
                   "--interval", interval, "--out", out, "--force")  # fmt: skip
    assert line.startswith("error: ") and "\n" not in line and said in line
    assert name.split(".")[0] in line or "stride" in line or "interval" in line
    assert out.read_bytes() == PRECIOUS and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("interval, said", [(0, "interval is 0"), (-1, "interval is -1")])
def test_intervals(folder, tmp_path, interval, said):
    out = tmp_path / "out.mp4"
    line = refused(folder, "segment", folder / "good.mp4", "--checkpoint", folder / "good.safetensors",
                   "--interval", interval, "--out", out)  # fmt: skip
    assert line.startswith("error: ") and "\n" not in line and said in line and "choose" in line
    assert not out.exists()


WEIGHTS = {
    "missing": "there is no checkpoint", "other": "holds another model", "damaged": "damaged", "text": "damaged",
    "flow": "flow network alone",
}  # fmt: skip


@pytest.mark.parametrize("command", ["segment", "evaluate"])
@pytest.mark.parametrize("name, said", WEIGHTS.items())
def test_checkpoints(folder, tmp_path, name, said, command):
    out = tmp_path / ("out.mp4" if command == "segment" else "out.csv")
    out.write_bytes(PRECIOUS)
    arguments = ["--force", *([folder / "good.mp4"] if command == "segment" else [])]
    line = refused(folder, command, *arguments, "--checkpoint", folder / f"{name}.safetensors", "--out", out)
    assert line.startswith("error: ") and "\n" not in line and said in line and f"{name}.safetensors" in line
    assert out.read_bytes() == PRECIOUS and list(tmp_path.iterdir()) == [out]


def test_a_checkpoint_of_other_classes(folder, tmp_path, monkeypatch):
    from tests.evaluation.test_offsets import moving_square

    monkeypatch.setattr("dfflib.data.threshold.threshold_set", lambda *_: (moving_square(),))
    line = refused(folder, "evaluate", "--checkpoint", folder / "five.safetensors", "--out", tmp_path / "out.csv")
    assert "5 classes" in line and not (tmp_path / "out.csv").exists()


def test_an_existing_video_is_not_overwritten_unasked(folder, tmp_path):
    out = tmp_path / "out.mp4"
    out.write_bytes(PRECIOUS)
    line = refused(folder, "segment", folder / "good.mp4", "--checkpoint", folder / "good.safetensors", "--out", out)
    assert "--force" in line and out.read_bytes() == PRECIOUS


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["train", "keyframe", "--profile", "huge"], "profile 'huge'"),
        (["evaluate", "--profile", "huge"], "profile 'huge'"),
        (["reproduce", "--profile", "huge"], "profile 'huge'"),
        (["evaluate", "--interval", "0"], "interval is 0"),
        (["train", "keyframe", "--steps", "0"], "--steps is 0"),
        (["reproduce", "-p", "colour=red"], "colour"),
        (["reproduce", "-p", "colour"], "NAME=VALUE"),
        (["train", "nothing"], "nothing"),
        (["segment", "x.mp4", "--flow", "raft"], "raft"),
        (["segment"], "VIDEO"),
    ],
)
def test_names_and_numbers(folder, tmp_path, arguments, said):
    if arguments[0] in ("train", "reproduce"):
        arguments = [*arguments, "--out-dir", str(tmp_path / "run")]
    line = refused(folder, *arguments)
    assert "\n" not in line and said in line


def test_the_installed_command_says_the_same(folder, tmp_path):
    command = [sys.executable, "-m", "dfflib", "segment", str(folder / "cut.mp4"), "--checkpoint",
               str(folder / "good.safetensors"), "--out", str(tmp_path / "out.mp4")]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100, encoding="utf-8")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and "cut.mp4" in result.stderr
    assert list(tmp_path.iterdir()) == []


# Every option of every verb, as click knows them: a new one is tried without an entry here.

NUMBERS = ["", "x", "-1", str(2**32), str(10**30), "²", "٣", "nan", "inf", "1e999", "0x10"]
NAMES = ["", "nope", "Nope\nnope", "no\0pe", "nope=1", "..", "\udcff"]
LONG = "n" * 300
FILES = ["", "a\0b", "file", "file/below{}", "loop{}", f"{LONG}{{}}", "x/" * 3000 + "end{}", "mis\udcffsing\n/\x1b[2J"]
REQUIRED = {"video": "video.mp4", "stage": "keyframe", "name": "camvid", "recipe": "threshold"}
FEWER = {"reproduce": ["--only", "02"]}  # one notebook is looked through faster than all


def verbs(group=main, before=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, (*before, name))
        else:
            yield (*before, name), command


def bad_values(param):
    """Values that no option of this type may take, whatever it is for."""
    kind = param.type.name
    if "integer" in kind or "number" in kind or "float" in kind:
        known = limits.OPTIONS.get(param.name)
        return NUMBERS + ["1.5", "1_0"] * ("whole" in kind) + ["0"] * bool(known and known.low > 0)
    if kind in ("path", "file", "directory", "filename"):
        suffix = {"out": ".csv" if ".csv" in (param.metavar or "") else ".mp4"}.get(param.name, "")
        folder = [] if param.name == "out_dir" else ["folder"]
        inside = [str(ROOT), str(ROOT / "data"), str(ROOT.parent)] if param.name == "out_dir" else []
        # what an output may be called: anything that the system takes
        return [name.format(suffix) for name in FILES[: -1 if "out" in param.name else None]] + folder + inside
    if kind == "size":
        return ["", "512", "512x", "31x64", "512²x256", "٥١٢x256", "-512x256", "0x0", "99999x99999", f"{10**30}x64"]
    return NAMES


CASES = [
    pytest.param([*verb], param, id=f"{' '.join(verb)} {param.opts[0]}")
    for verb, command in verbs()
    for param in command.params
    if not getattr(param, "is_flag", False)
]


@pytest.fixture
def barred(tmp_path, monkeypatch):
    """A working directory in which whatever begins to work fails the test, and nothing may be left behind."""

    write_video(tmp_path / "video.mp4", frames(6))
    (tmp_path / "file").write_text("some text", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    for name in ("loop", "loop.mp4", "loop.csv"):
        (tmp_path / name).symlink_to(name)

    def work(*_, **__):
        raise AssertionError("work began before the value was refused")

    for owner, name in ((torch.nn.Module, "__init__"), (os, "replace"), (shutil, "copyfile"), (subprocess, "Popen")):
        monkeypatch.setattr(owner, name, work)
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("verb, param", CASES)
def test_a_bad_value_of_any_option_is_one_sentence_before_any_work(barred, verb, param):
    before = {path: path.lstat().st_mtime_ns for path in barred.rglob("*")}
    arguments = {
        p.name: REQUIRED[p.name]
        for p in dict(verbs())[tuple(verb)].params
        if isinstance(p, click.Argument) and p.required
    }
    for value in bad_values(param):
        if isinstance(param, click.Option):
            given = [
                *arguments.values(),
                param.opts[0],
                value,
                *(FEWER.get(verb[0], []) if param.name != "only" else []),
            ]
        else:
            given = [*(arguments | {param.name: value}).values()]
            given = ["camvid", value] if verb == ["data", "check"] and param.name == "path" else ["--", *given]
        result = CliRunner().invoke(main, [*verb, *given])
        said = (value[:40], result.output[-500:], result.exception)
        assert result.exit_code == 2 and isinstance(result.exception, SystemExit), said
        lines = result.stderr.strip().split("\n")
        assert lines[-1].lower().startswith("error: ") and lines[-1].isprintable(), said
        assert len(lines) == 1 or lines[0].startswith("Usage: "), said
        assert before == {path: path.lstat().st_mtime_ns for path in barred.rglob("*")}, said
