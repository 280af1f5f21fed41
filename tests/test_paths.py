"""Where files go: a run stays out of the workbook, an output is no input, and a disk that takes nothing says why at once."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dfflib import paths
from dfflib.errors import DffError
from dfflib.paths import ROOT, output_file, run_dir, run_folder, temporary, write_atomically

POSIX = pytest.mark.skipif(os.name == "nt", reason="links and limits of POSIX")


@pytest.mark.parametrize("name", [
    ".", "data", "data/checkpoints", "notebooks", "figures", "dfflib", "tests/new", "runs/../data", "..", "../..", "/",
    "runs/../runs/..", "new", "runs_2",
])  # fmt: skip
def test_a_run_folder_is_no_part_of_the_workbook(name):
    before = sorted(os.listdir(ROOT))
    with pytest.raises(DffError, match="it belongs to the workbook, so name another with --out-dir"):
        run_dir("smoke", ROOT / name)
    assert sorted(os.listdir(ROOT)) == before


@POSIX
def test_links_to_the_workbook_are_seen_through(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(ROOT / "data")
    for name in ("link", "link/new", "link/.."):
        with pytest.raises(DffError, match="belongs to the workbook"):
            run_folder("smoke", tmp_path / name)
    monkeypatch.chdir(ROOT)
    with pytest.raises(DffError, match="belongs to the workbook"):
        run_folder("smoke", "notebooks")


def test_run_folders(tmp_path, monkeypatch):
    assert run_folder("smoke") == (ROOT / "runs" / "smoke").resolve() and run_folder("x", ROOT / "runs/a/b").name == "b"
    monkeypatch.chdir(tmp_path)
    assert not run_folder("smoke", "there").exists() and run_dir("smoke", "there") == (tmp_path / "there").resolve()
    assert list((tmp_path / "there").iterdir()) == [], "the probe is gone"
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    assert run_dir("smoke") == (tmp_path / "runs" / "smoke").resolve() and run_dir("smoke").is_dir()


@POSIX
def test_an_output_is_no_input_by_whatever_name(tmp_path, monkeypatch):
    source = tmp_path / "v.mp4"
    source.write_bytes(b"precious")
    (tmp_path / "soft.mp4").symlink_to(source)
    os.link(source, tmp_path / "hard.mp4")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").write_bytes(b"a frame")
    os.link(tmp_path / "frames" / "1.png", tmp_path / "one.mp4")
    (tmp_path / "frames" / "earlier.mp4").write_bytes(b"an earlier result")
    monkeypatch.chdir(tmp_path)
    for out in (source, "v.mp4", "./frames/../v.mp4", "soft.mp4", "hard.mp4"):
        for given in (source, "v.mp4", "soft.mp4"):
            with pytest.raises(DffError, match=r"is an input of the same command .*: name another file with --out"):
                output_file(out, [given], [".mp4"])
    with pytest.raises(DffError, match="is an input of the same command"):
        output_file("one.mp4", ["frames"], [".mp4"])
    assert output_file("frames/earlier.mp4", ["frames"], [".mp4"]) == Path("frames/earlier.mp4")
    assert output_file("other.mp4", [source, "missing"], [".mp4"]) == Path("other.mp4")
    assert source.read_bytes() == b"precious" and not (tmp_path / "other.mp4").exists()


def test_one_rule_of_overwriting(tmp_path):
    there = tmp_path / "t.csv"
    there.touch()
    with pytest.raises(DffError, match="exists already: add --force to overwrite it, or name another file with --out"):
        output_file(there, force=False)
    assert output_file(there, force=True) == there and output_file(tmp_path / "new.csv", force=False)
    with pytest.raises(DffError, match=r"let it end in .csv"):
        output_file(tmp_path / "t.safetensors", suffixes=[".csv"])
    with pytest.raises(DffError, match="is a folder: give the name of a file in it"):
        output_file(tmp_path, suffixes=[".csv"])


LONG = "n" * 251 + ".csv"  # 255 bytes, the most that a name may have


def refuse(number):
    """A function that fails as the system does."""

    def function(*_, **__):
        raise OSError(number, os.strerror(number))

    return function


@POSIX
@pytest.mark.parametrize("name, reason", [
    ("file/t.csv", "Not a directory"), ("loop/t.csv", "symbolic links"), ("loop.csv", "symbolic links"),
    ("n" * 256 + ".csv", "too long"), ("n" * 300 + "/t.csv", "too long"), ("x/" * 3000 + "t.csv", "too long"),
])  # fmt: skip
@pytest.mark.parametrize("check", [output_file, lambda path: run_dir("x", path)], ids=["output_file", "run_dir"])
def test_what_is_in_the_way_is_named_before_anything_is_written(tmp_path, name, reason, check):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(DffError) as refused:
        check(tmp_path / name)
    assert name[:20] in str(refused.value) and reason in str(refused.value)
    assert sorted(os.listdir(tmp_path)) == before


@POSIX
def test_folders_behind_links(tmp_path):
    (tmp_path / "link").symlink_to("not there yet")
    with pytest.raises(DffError, match=r"No such file or directory.: check the name"):
        output_file(tmp_path / "link" / "t.csv")
    assert run_dir("smoke", tmp_path / "link") == (tmp_path / "not there yet").resolve()
    assert output_file(tmp_path / "link" / "t.csv").parent.is_dir()


@pytest.mark.parametrize("number, remedy", [
    (errno.ENOSPC, "free some disk space"), (errno.EACCES, "may write to"), (errno.EROFS, "may write to"), (errno.EIO, "disk"),
])  # fmt: skip
def test_a_disk_that_takes_nothing_leaves_nothing(tmp_path, monkeypatch, number, remedy):
    old = write_atomically(tmp_path / "t.csv", "last week's")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse(number))
            with pytest.raises(DffError, match=rf"t.csv cannot be written \({os.strerror(number)}.*{remedy}"):
                write_atomically(old, "half of this week's")
    monkeypatch.setattr(Path, "write_bytes", refuse(number))
    with pytest.raises(DffError, match=rf"new.csv cannot be written \({os.strerror(number)}.*{remedy}"):
        output_file(tmp_path / "new.csv")
    with pytest.raises(DffError, match=rf"cannot be the run folder \({os.strerror(number)}.*{remedy}.*--out-dir"):
        run_dir("smoke", tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"] and old.read_text(encoding="utf-8") == "last week's"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full disk ready")
def test_a_full_disk(tmp_path, monkeypatch):
    (tmp_path / "full").symlink_to("/dev/full")
    monkeypatch.setattr(paths, "temporary", lambda path: tmp_path / "full")
    with pytest.raises(DffError, match=r"t.csv cannot be written .No space left on device.: free some disk space"):
        output_file(tmp_path / "t.csv")
    assert not list(tmp_path.iterdir())


def test_the_longest_name_can_be_written(tmp_path):
    assert output_file(tmp_path / LONG).name == LONG
    assert write_atomically(tmp_path / LONG, "whole").read_text(encoding="utf-8") == "whole"
    assert [path.name for path in tmp_path.iterdir()] == [LONG]


@POSIX
def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path):
    code = "import sys; from dfflib.paths import temporary; print(temporary(sys.argv[1]))"
    dead = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    dead, alive, other, old, foreign, below = (
        Path(dead.stdout.strip()), temporary(tmp_path / "x"), tmp_path / ".dff-00000000-1-aa.part",
        tmp_path / ".dff-00000000-2-bb.part", tmp_path / ".mine.part", temporary(tmp_path / "results" / "x"),
    )  # fmt: skip
    below.parent.mkdir()
    below = below.with_name(dead.name)
    for part in (dead, alive, other, old, foreign, below):
        part.touch()
    os.utime(old, (0, time.time() - paths.STALE - 9))
    output_file(tmp_path / "t.csv")
    assert {path for path in tmp_path.iterdir() if path.is_file()} == {alive, other, foreign} and below.exists()
    run_dir("smoke", tmp_path)
    assert not below.exists()


def test_temporary_names_are_short_and_never_the_same(tmp_path):
    names = {temporary(tmp_path / LONG).name for _ in range(100)}
    assert len(names) == 100 and max(map(len, names)) < 60 and all(name.startswith(".") for name in names)
