"""One run folder, one process at work in it."""

import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from dfflib import paths
from dfflib.errors import DffError

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not told apart
    fcntl = None


@contextlib.contextmanager
def held(profile: str, out_dir: str | os.PathLike, command: str) -> Iterator[Path]:
    """The run folder, held for this process alone. The lock is the operating system's: it ends with the process.

    Args:
        profile, out_dir: as in `dfflib.paths.run_dir`.
        command: who holds it, for those who are refused.

    Raises:
        DffError: another process holds it, or there can be no such folder.
    """
    try:
        folder = paths.run_dir(profile, out_dir)
        lock = open(folder / ".lock", "a+", encoding="utf-8")
    except OSError as error:
        where = out_dir or paths.RUNS / profile
        raise DffError(f"{where} cannot be the run folder ({error.strerror}): name another with --out-dir.") from None
    with lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                advice = "wait for it, or name another folder with --out-dir"
                raise DffError(f"{folder} is in use by {holder}: {advice}.") from None
            except OSError:
                pass  # a file system without locks
        lock.truncate(0)
        now = datetime.now().strftime("%Y-%m-%d %H:%M")
        lock.write(f"`{command}`, process {os.getpid()} on {socket.gethostname()}, since {now}")
        lock.flush()
        yield folder
