"""How work is stopped: signals, what they must not cut in two, and processes that end with the one that started them."""

import os
import signal
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C; ``kill``, or a scheduler's time limit; a terminal that is closed (not on Windows)."""

GRACE = 60.0
"""Seconds in which work that is stopped may save where it is."""

ONE_WISH = 0.5
"""Seconds: ``timeout`` and terminals send a signal twice, to a process and to its group."""

LED = "DFFLIB_LED"
"""Set in the environment of a stage that ``train-all`` has started: the run folder is held for it, and its standard input
closes when it is to stop."""


class _Wish:
    """The first signal of those that want one thing."""

    def __init__(self):
        self.number, self.since = 0, float("-inf")

    def repeats(self, number: int) -> bool:
        """Note a signal. Is it an echo of the last one?"""
        now = time.monotonic()
        echo = now - self.since < ONE_WISH
        if not echo:
            self.number, self.since = number, now
        return echo


@contextmanager
def interrupting() -> Iterator[Callable[[], int]]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt here, as Ctrl-C does; what is ignored (``nohup``, ``&``) stays ignored.

    Yields:
        A function that gives the number of the signal that was raised last; 0 if there was none.
    """
    wish = _Wish()

    def interrupt(number, stack):
        """Raise, unless this is the same wish again."""
        if not wish.repeats(number):
            raise KeyboardInterrupt

    with _handled(interrupt, lambda before: before != signal.SIG_IGN):
        yield lambda: wish.number


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Hold signals back until the end of the block, which asks whether one has come; then each has its usual effect.

    A second Ctrl-C is obeyed at once. Signals that Python does not handle are left alone, and so are threads, which no signal
    reaches.
    """
    wish = _Wish()

    def hold(number, stack):
        """Note a signal; obey the second."""
        earlier = wish.number
        if not wish.repeats(number) and earlier and number == signal.SIGINT:
            raise KeyboardInterrupt

    with _handled(hold, callable) as before:
        yield lambda: bool(wish.number)
    if wish.number:
        before[wish.number](wish.number, sys._getframe())
        raise KeyboardInterrupt


@contextmanager
def _handled(handler: Callable, which: Callable) -> Iterator[dict]:
    """Handle those signals whose present handlers are of a kind; yields these."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: old for n in SIGNALS if which(old := signal.getsignal(n)) and old is not None}
    try:
        for number in before:
            signal.signal(number, handler)
        yield before
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def follow_leader() -> None:
    """In a stage of ``train-all``: stop, as by SIGTERM, when that asks for it or is gone, however it ended."""
    if LED in os.environ:
        threading.Thread(target=_follow, name="leader", daemon=True).start()


def _follow() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would be held when Python ends
        pass
    interrupt_main(signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
