"""Who is at work where: one process on a stage, and in a run folder one that needs it whole, or several that share it."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO

from dfflib import paths
from dfflib.errors import DffError
from dfflib.stopping import GRACE, LED

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not told apart
    fcntl = None

ABANDONED = 3600.0
"""Seconds after which a temporary file is of a process that was killed."""


@contextlib.contextmanager
def held(profile: str, out_dir: str | os.PathLike, command: str, shared: bool = False) -> Iterator[Path]:
    """The run folder, for this process and those that it starts. The lock is the operating system's: it ends with the process.

    Temporary files that were abandoned in the folder are removed.

    Args:
        profile, out_dir: as in `dfflib.paths.run_dir`.
        command: who holds it, for those who are refused.
        shared: beside others who share it; else alone. A stage of ``train-all`` shares what that holds.

    Raises:
        DffError: another process holds it, or there can be no such folder.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = paths.run_dir(profile, out_dir)
            if not (shared and LED in os.environ):
                stack.enter_context(_locked(folder / ".lock", folder, command, shared))
        except OSError as error:
            where = out_dir or paths.RUNS / profile
            raise DffError(
                f"{where} cannot be the run folder ({error.strerror}): name another with --out-dir."
            ) from None
        _sweep(folder, "*/.*.part", ABANDONED)
        yield folder


@contextlib.contextmanager
def held_stage(folder: Path, name: str) -> Iterator[None]:
    """One stage of a run folder, for this process alone; what earlier ones left half-written of it is removed.

    A stage of ``train-all`` waits for one that was orphaned, which saves where it is and ends.

    Raises:
        DffError: another process trains it.
    """
    file = folder / "train" / f".{name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file, f"{name} in {folder}", "dfflib train", patience=GRACE if LED in os.environ else 0.0):
        _sweep(folder, f"*/.{name}[._]*.part")
        yield


@contextlib.contextmanager
def _locked(file: Path, what, command: str, shared: bool = False, patience: float = 0.0) -> Iterator[None]:
    with open(file, "a+", encoding="utf-8") as lock:
        if fcntl and not _take(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, patience):
            lock.seek(0)
            there = [line for line in lock.read().splitlines() if _is_alive(line)]
            holder = there[-1] if there else "another process"
            raise DffError(f"{what} is in use by {holder}: wait for it, or name another folder with --out-dir.")
        if not shared:
            lock.truncate(0)
        now = datetime.now().strftime("%Y-%m-%d %H:%M")
        lock.write(f"`{command}`, process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        lock.flush()
        yield


def _take(lock: TextIO, kind: int, patience: float) -> bool:
    """Lock an open file, within so many seconds."""
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
        except OSError:
            return True  # a file system without locks
        time.sleep(0.2)


def _is_alive(holder: str) -> bool:
    """Is the process at work that a line of a lock file names? Of those on other machines nobody knows."""
    named = re.search(r"process (\d+) on (.*), since", holder)
    try:
        if named and named[2] == socket.gethostname():
            os.kill(int(named[1]), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # of another user
    return True


def _sweep(folder: Path, pattern: str, age: float = 0.0) -> None:
    """Remove temporary files that are older than so many seconds."""
    for part in folder.glob(pattern):
        with contextlib.suppress(OSError):  # gone already, or not ours
            if time.time() - part.stat().st_mtime >= age:
                part.unlink()
