"""Two processes in one run folder: the second is told who is there, and a dead one is nobody."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from dfflib.cli import main
from dfflib.errors import DffError
from dfflib.locks import held
from dfflib.paths import ROOT

HOLD = """
import sys, time
from dfflib.locks import held
with held("smoke", sys.argv[1], "dfflib reproduce"):
    print("held", flush=True)
    time.sleep(60)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such locks on Windows")


def test_held_by_another_process_until_it_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        refusal = f"in use by `dfflib reproduce`, process {other.pid} on .*: wait for it, or name another folder"
        with pytest.raises(DffError, match=refusal), held("smoke", tmp_path, "dfflib train-all"):
            pass
        refused = CliRunner().invoke(main, ["train-all", "threshold", "--profile", "smoke", "--out-dir", str(tmp_path)])
        assert refused.exit_code == 2 and f"process {other.pid}" in refused.output
        assert [path.name for path in tmp_path.iterdir()] == [".lock"], "nothing was begun"
        other.kill()
    with held("smoke", tmp_path, "dfflib train-all") as folder:
        assert folder == tmp_path and "`dfflib train-all`" in (tmp_path / ".lock").read_text(encoding="utf-8")


def test_it_ends_with_the_block_also_by_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), held("smoke", tmp_path, "dfflib reproduce"):
        1 / 0
    with held("smoke", tmp_path, "dfflib reproduce"):
        pass
