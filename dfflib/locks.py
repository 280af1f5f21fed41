"""Locks: one process trains a stage, and a run folder is used by one process alone or by several that share it.

The locks are ``flock``'s and not those of ``filelock``, whose file lock cannot be shared.
"""

import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO

from dfflib import paths
from dfflib.errors import DffError
from dfflib.stopping import PARENT, SAVE_SECONDS

if sys.platform != "win32":  # there, two runs in one folder are not told apart
    import fcntl


@contextlib.contextmanager
def lock_run(profile: str, out_dir: str | os.PathLike, command: str, shared: bool = False) -> Iterator[Path]:
    """The run folder, for this process and those that it starts. The operating system ends the lock with the process.

    Args:
        profile, out_dir: as in `dfflib.paths.run_dir`.
        command: who holds it, for those who are refused.
        shared: beside others who share it; else alone. A stage that ``train-all`` has started shares its lock.

    Raises:
        DffError: another process holds it, or there can be no such folder.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = paths.run_dir(profile, out_dir)
            if not (shared and PARENT in os.environ):
                stack.enter_context(_locked(folder / ".lock", str(folder), command, shared))
        except OSError as error:
            where = out_dir or paths.RUNS / profile
            raise DffError(
                f"{where} cannot be the run folder ({error.strerror}): name another with --out-dir."
            ) from None
        yield folder


@contextlib.contextmanager
def lock_stage(folder: Path, name: str) -> Iterator[None]:
    """One stage of a run folder, for this process alone.

    A stage that ``train-all`` has started waits for an earlier one that lost its parent, which saves its state and ends.

    Raises:
        DffError: another process trains it.
    """
    file = folder / "train" / f".{name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file, f"{name} in {folder}", "dfflib train", timeout=SAVE_SECONDS if PARENT in os.environ else 0.0):
        yield


@contextlib.contextmanager
def _locked(file: Path, what: str, command: str, shared: bool = False, timeout: float = 0.0) -> Iterator[None]:
    """Hold a lock file, which names its holders: one line each."""
    with open(file, "a+", encoding="utf-8") as lock:
        if not _acquire(lock, shared, timeout):
            lock.seek(0)
            holders = [line for line in lock.read().splitlines() if _may_run(line)]
            holder = holders[-1] if holders else "another process"
            raise DffError(f"{what} is in use by {holder}: wait for it, or name another folder with --out-dir.")
        if not shared:
            lock.truncate(0)
        now = datetime.now().strftime("%Y-%m-%d %H:%M")
        lock.write(f"`{command}`, process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        lock.flush()
        yield


def _acquire(lock: TextIO, shared: bool, timeout: float) -> bool:
    """Lock an open file, within so many seconds."""
    if sys.platform == "win32":
        return True
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
        except OSError:
            return True  # a file system without locks
        time.sleep(0.2)


def _may_run(holder: str) -> bool:
    """Whether the process of a line in a lock file may be running; of another machine's nobody knows."""
    named = re.search(r"process (\d+) on (.*), since", holder)
    return not (named and named[2] == socket.gethostname()) or paths.is_alive(int(named[1]))
