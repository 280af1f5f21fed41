"""Every verb is killed at any moment: no process stays, nothing half-written poses as a result, and the same command goes on.

One verb and signal here; all of them, several moments each, with ``pytest -m long tests/test_kill.py`` (half an hour).
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pandas as pd
import pytest

from dfflib.models.checkpoints import load_weights, tensor_digest
from dfflib.paths import ROOT

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL")


class Verb(NamedTuple):
    """One verb: its arguments in a folder, and what it leaves there, in a form that can be compared (None: nothing yet)."""

    arguments: Callable[[Path], list]
    result: Callable[[Path], object]


def trained(folder: Path):
    return {f.name: tensor_digest(load_weights(f)) for f in sorted(folder.glob("run/checkpoints/*.safetensors"))}


def rows(file: Path):
    return pd.read_csv(file).drop(columns=["value", "seconds"], errors="ignore").to_csv() if file.exists() else None


def frames(file: Path):
    if file.exists():
        with av.open(str(file)) as container:
            return sum(1 for _ in container.decode(video=0))


def film(folder: Path) -> Path:
    """A hundred frames of noise."""
    if (folder / "film.mp4").exists():
        return folder / "film.mp4"
    with av.open(str(folder / "film.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        for n in range(100):
            picture = np.random.default_rng(n).integers(0, 256, (192, 320, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return folder / "film.mp4"


def shown(folder: Path):
    """What ``publish`` renews, in a copy of the checkout."""
    places = ("README.md", "data/checkpoints", "figures")
    files = [f for place in places for f in (folder / "copy").glob(f"{place}/**/*" if "." not in place else place)]
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(files) if f.is_file()}


def publishing(folder: Path) -> list:
    if not (folder / "copy").exists():
        shutil.copytree(ROOT, folder / "copy", ignore=shutil.ignore_patterns(".*", "runs"))
        shutil.copytree(ROOT / "figures" / "results", folder / "run" / "results")
    return ["publish", "--profile", "laptop", "--out-dir", folder / "run"]


VERBS = {
    "train": Verb(lambda f: ["train", "keyframe", "--steps", "6", "--out-dir", f / "run"], trained),
    "train with workers": Verb(
        lambda f: ["train", "keyframe", "--recipe", "shapes", "--steps", "110", "--out-dir", f / "run"], trained
    ),
    "train-all": Verb(lambda f: ["train-all", "threshold", "--jobs", "2", "--out-dir", f / "run"], trained),
    "segment": Verb(
        lambda f: ["segment", film(f), "--out", f / "out.mp4", "--force"], lambda f: frames(f / "out.mp4")
    ),
    "evaluate": Verb(
        lambda f: ["evaluate", "--out", f / "out.csv", "--interval", "2"], lambda f: rows(f / "out.csv")
    ),
    "bench": Verb(
        lambda f: ["bench", "--size", "64x48", "--interval", "2", "--out-dir", f], lambda f: rows(f / "results/bench.csv")
    ),
    "reproduce": Verb(
        lambda f: ["reproduce", "--only", "02", "--out-dir", f / "run"],
        lambda f: (f / "run/state/02_warp.json").exists() or None,
    ),
    "publish": Verb(publishing, lambda f: None),
    "data check": Verb(lambda f: ["data", "check", "cityscapes", f], lambda f: None),
}  # fmt: skip


def start(verb: str, folder: Path, token: str) -> subprocess.Popen:
    arguments = [str(a) for a in VERBS[verb].arguments(folder)]
    root = folder / "copy" if verb == "publish" else ROOT
    threads = "3" if verb == "train with workers" else "1"
    environment = {**os.environ, "PYTHONPATH": str(root), "DFFLIB_TEST_TOKEN": token}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    with open(folder / "said.txt", "wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "dfflib", *arguments], cwd=root, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip


def at_work(token: str) -> list[str]:
    """Command lines of the processes that were started with a token in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"DFFLIB_TEST_TOKEN={token}".encode() in (process / "environ").read_bytes().split(b"\0")
            if ours and (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            pass  # it has ended
    return found


def killed(verb: str, folder: Path, reference: Path, number: int, after: float) -> None:
    """Kill a verb, look at what stays, and let the same command finish."""
    token, result = f"{verb} {folder}", VERBS[verb].result
    process = start(verb, folder, token)
    time.sleep(after)
    process.send_signal(number)
    process.wait(100)
    ended = time.monotonic() + 30
    while (left := at_work(token)) and time.monotonic() < ended:
        time.sleep(0.1)
    assert not left, left
    said = (folder / "said.txt").read_text(encoding="utf-8")
    finished = process.returncode == wanted_code(reference)
    assert finished or process.returncode in (128 + number, -number), said  # the latter: before there is a handler
    # Python itself may be interrupted where it imports; later, nobody is shown a traceback.
    assert "Traceback" not in said or "importlib" in said, said
    whole = result(reference)
    assert finished or (now := result(folder)) is None or now == whole or now.items() <= whole.items()
    again = start(verb, folder, token)
    assert again.wait(600) == wanted_code(reference), (folder / "said.txt").read_text(encoding="utf-8")
    assert result(folder) == whole
    if verb == "publish":
        assert shown(folder) == shown(reference)
    assert not at_work(token)


def wanted_code(reference: Path) -> int:
    return int((reference / "code").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def never_killed(tmp_path_factory):
    """Verb -> folder of a run that was left in peace, and its seconds; each runs once."""
    done = {}

    def reference(verb: str) -> tuple[Path, float]:
        if verb not in done:
            folder, began = tmp_path_factory.mktemp("reference"), time.monotonic()
            code = start(verb, folder, "reference").wait(600)
            seconds = time.monotonic() - began
            assert code in (0, 1, 2) and (code == 0 or verb in ("data check", "publish"))
            (folder / "code").write_text(str(code), encoding="utf-8")
            done[verb] = folder, seconds
        return done[verb]

    return reference


@pytest.mark.parametrize("name", ["SIGTERM"])
def test_killed_training_leaves_nobody_and_goes_on(tmp_path, never_killed, name):
    reference, seconds = never_killed("train")
    after = random.Random(name).uniform(0.5, 0.9) * seconds
    killed("train", tmp_path, reference, getattr(signal, name), after)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_any_moment(tmp_path, never_killed, verb, name):
    reference, seconds = never_killed(verb)
    for turn in range(1 if verb == "train-all" else 3):
        folder = tmp_path / str(turn)
        folder.mkdir()
        after = random.Random(f"{verb} {name} {turn}").uniform(0.1, 0.95) * seconds
        killed(verb, folder, reference, getattr(signal, name), after)
