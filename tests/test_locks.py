"""Two processes in one run folder: the second is told who is there, and a dead one is nobody."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from dfflib.cli import main
from dfflib.errors import DffError
from dfflib.locks import lock_run
from dfflib.paths import ROOT
from dfflib.stopping import PARENT

HOLD = """
import sys, time
from dfflib.locks import lock_run
with lock_run("smoke", sys.argv[1], "dfflib reproduce"):
    print("held", flush=True)
    time.sleep(600)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such locks on Windows")


def test_held_by_another_process_until_it_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        refusal = f"in use by `dfflib reproduce`, process {other.pid} on .*: wait for it, or name another folder"
        with pytest.raises(DffError, match=refusal), lock_run("smoke", tmp_path, "dfflib train-all"):
            pass
        refused = CliRunner().invoke(main, ["train-all", "threshold", "--profile", "smoke", "--out-dir", str(tmp_path)])
        assert refused.exit_code == 2 and f"process {other.pid}" in refused.output
        assert [path.name for path in tmp_path.iterdir()] == [".lock"], "nothing was begun"
        other.kill()
    with lock_run("smoke", tmp_path, "dfflib train-all") as folder:
        assert folder == tmp_path and "`dfflib train-all`" in (tmp_path / ".lock").read_text(encoding="utf-8")


def test_those_who_share_are_in_the_way_of_one_who_does_not(tmp_path):
    with lock_run("smoke", tmp_path, "dfflib train joint", shared=True):
        with lock_run("smoke", tmp_path, "dfflib evaluate", shared=True):
            pass
        with (
            pytest.raises(DffError, match="in use by `dfflib evaluate`"),
            lock_run("smoke", tmp_path, "dfflib publish"),
        ):
            pass
    with lock_run("smoke", tmp_path, "dfflib train-all"), pytest.raises(DffError, match="in use by `dfflib train-all`"):
        with lock_run("smoke", tmp_path, "dfflib train joint", shared=True):
            pass


def test_a_stage_of_train_all_enters_the_folder_that_is_held_for_it(tmp_path, monkeypatch):
    with lock_run("smoke", tmp_path, "dfflib train-all"):
        monkeypatch.setenv(PARENT, "1")
        with lock_run("smoke", tmp_path, "dfflib train joint", shared=True):
            pass


@pytest.mark.parametrize("verb", ["train keyframe", "publish"])
def test_every_verb_that_writes_there_asks_first(tmp_path, verb):
    with lock_run("laptop", tmp_path, "dfflib reproduce"):
        refused = CliRunner().invoke(main, [*verb.split(), "--profile", "laptop", "--out-dir", str(tmp_path)])
    assert refused.exit_code == 2 and "in use by `dfflib reproduce`" in refused.output


def test_it_ends_with_the_block_also_by_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), lock_run("smoke", tmp_path, "dfflib reproduce"):
        1 / 0
    with lock_run("smoke", tmp_path, "dfflib reproduce"):
        pass
