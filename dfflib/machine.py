"""The machine that a result was made on: processor, GPU, cores, and versions."""

import contextlib
import itertools
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
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


def in_threads(work: Callable[[list[Item]], Result], items: Sequence[Item]) -> list[Result]:
    """Items shared out to as many threads as PyTorch takes; results of ``work(part)``, in the order of the parts.

    Each part has one thread of PyTorch's and OpenCV's own, and they meet once, at the end: small pictures are soon done, and
    threads that share every operation on them would mostly wait for each other. A single part has all threads.

    Args:
        work: on one part; it spends its time outside of Python.
        items: any.
    """
    import cv2
    import torch

    threads, before = torch.get_num_threads(), cv2.getNumThreads()
    count = max(1, min(threads, len(items)))
    ends = [len(items) * n // count for n in range(count + 1)]
    parts = [list(items[start:end]) for start, end in itertools.pairwise(ends)]
    cv2.setNumThreads(threads // count)
    try:
        if count == 1:
            return [work(parts[0])]
        with one_thread_each(), ThreadPoolExecutor(count) as pool:
            return list(pool.map(work, parts))
    finally:
        cv2.setNumThreads(before)


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
