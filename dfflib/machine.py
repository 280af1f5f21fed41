"""The machine that a result was made on: processor, GPU, cores, and versions."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from dfflib import __version__

Item, Result = TypeVar("Item"), TypeVar("Result")


def versions() -> str:
    """Of this package, PyTorch and Python, for the reader of a result."""
    return f"dfflib {__version__}, torch {torch_version()}, python {platform.python_version()}"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_device() -> str:
    """Processor or GPU, and threads, in a few words: the ``device`` column of result files."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} threads"


def device() -> str:
    """``"cuda"`` where PyTorch finds a GPU, else ``"cpu"``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """PyTorch takes one thread for a call, as suits several that work side by side."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_threads(work: Callable[[int, list[Item]], Iterable[Result]], items: Sequence[Item]) -> list[Result]:
    """One result for each item, in their order, from as many threads as PyTorch takes; for work that leaves Python's lock.

    That serves small pictures better than OpenCV's own threads; each of ours has the share of these that is left for it.

    Args:
        work: ``work(number of the thread, its items)`` gives their results.
        items: any.
    """
    import cv2
    import torch

    threads, before = torch.get_num_threads(), cv2.getNumThreads()
    count = max(1, min(threads, len(items)))
    cv2.setNumThreads(max(1, threads // count))
    try:
        if count == 1:
            return list(work(0, list(items)))
        with ThreadPoolExecutor(count) as pool:
            parts = list(pool.map(lambda n: list(work(n, list(items[n::count]))), range(count)))
    finally:
        cv2.setNumThreads(before)
    return [parts[n % count][n // count] for n in range(len(items))]


def revision() -> str:
    """Version of the library, and the commit where it runs from a checkout: the ``version`` of results on test scenes."""
    ask = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(ask, capture_output=True, timeout=10, check=False, encoding="utf-8").stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return f"{__version__} {commit}".strip()


def machine() -> dict[str, str]:
    """Processor, cores, memory, GPU, python and torch, in words; imports no torch."""
    memory = "unknown"
    if {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(getattr(os, "sysconf_names", ())):
        memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    return {
        "Processor": _processor(),
        "Cores": str(cores()),
        "Memory": memory,
        "GPU": _gpu(),
        "Python": platform.python_version(),
        "PyTorch": torch_version(),
        "System": platform.system(),
    }


def torch_version() -> str:
    """Version of torch with its build (``2.15.0+cu132``), read from its source: importing torch takes seconds."""
    spec = find_spec("torch")
    assert spec and spec.origin, "torch is installed with dfflib"
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    assert found, "torch writes this line when it is built"
    return found[1]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.search(r"^model name\s*:\s*(.*\S)", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _gpu() -> str:
    if not shutil.which("nvidia-smi"):
        return "none"
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, timeout=10, check=False, encoding="utf-8")
    except (OSError, subprocess.SubprocessError):
        return "none"
    return ", ".join(answer.stdout.strip().splitlines()) or "none"
