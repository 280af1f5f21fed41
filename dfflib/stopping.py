"""How work is stopped: signals, when they take effect, and processes that end with the one that started them."""

import os
import signal
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C; ``kill``, or a scheduler's time limit; a terminal that is closed (not on Windows)."""

SAVE_SECONDS = 60.0
"""How long work that is stopped may take to save its state."""

REPEAT_SECONDS = 0.5
"""A signal that follows another this soon is its repetition: ``timeout`` and terminals send it to a process and its group."""

PARENT = "DFFLIB_PARENT"
"""Set in the environment of a stage that ``train-all`` has started: that has locked the run folder for it, and closes the
stage's standard input when the stage is to stop."""


class _Received:
    """The last signal that was received; 0 if there was none."""

    def __init__(self) -> None:
        self.number, self.time = 0, float("-inf")

    def is_repeated(self, number: int) -> bool:
        """Note a signal. Does it only repeat the one before?"""
        now = time.monotonic()
        if now - self.time < REPEAT_SECONDS:
            return True
        self.number, self.time = number, now
        return False


@contextmanager
def interrupting() -> Iterator[Callable[[], int]]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt here, as Ctrl-C does; what is ignored (``nohup``, ``&``) stays ignored.

    Yields:
        A function that gives the number of the signal that was raised last; 0 if there was none.
    """
    received = _Received()

    def interrupt(number: int, frame: FrameType | None) -> None:
        """Raise, unless the signal is a repetition."""
        if not received.is_repeated(number):
            raise KeyboardInterrupt

    with _handled(interrupt, lambda before: before != signal.SIG_IGN):
        yield lambda: received.number


@contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Signals take effect at the end of the block, and not in it.

    A second Ctrl-C takes effect at once. Signals that Python does not handle are left alone, and so are threads, which no
    signal reaches.

    Yields:
        A function that tells whether a signal has come.
    """
    received = _Received()

    def defer(number: int, frame: FrameType | None) -> None:
        """Note the first signal; raise at a second Ctrl-C."""
        earlier = received.number
        if not received.is_repeated(number) and earlier and number == signal.SIGINT:
            raise KeyboardInterrupt

    with _handled(defer, callable) as before:
        yield lambda: bool(received.number)
    if received.number:
        before[received.number](received.number, sys._getframe())
        raise KeyboardInterrupt


@contextmanager
def _handled(handler: Callable, which: Callable[[Any], bool]) -> Iterator[dict[int, Any]]:
    """Give a new handler to the signals whose present ones fulfil ``which``; yields the present ones by signal."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: old for n in SIGNALS if which(old := signal.getsignal(n)) and old is not None}
    try:
        for number in before:
            signal.signal(number, handler)
        yield before
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def stop_with_parent() -> None:
    """In a stage of ``train-all``: stop, as by SIGTERM, when that asks for it or has ended, however it did."""
    if PARENT in os.environ:
        threading.Thread(target=_wait_for_parent, name="parent", daemon=True).start()


def _wait_for_parent() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would be held when Python ends
        pass
    interrupt_main(signal.SIGTERM)
    time.sleep(SAVE_SECONDS)
    os._exit(1)
