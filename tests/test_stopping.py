"""Signals: what they do to a command, what is held back, and what an echo of one is."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from dfflib import cli, stopping
from dfflib.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")


def command_that(act):
    """The ``dfflib`` command, with one more verb."""
    group = cli._Commands("dfflib")
    group.command("act")(act)
    return CliRunner().invoke(group, ["act"])


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_every_signal_ends_a_command_as_ctrl_c_does(name, code):
    before, cleaned = signal.getsignal(signal.SIGTERM), []

    def act():
        try:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(5)
        finally:
            os.kill(os.getpid(), getattr(signal, name))  # `timeout` and terminals send it twice
            time.sleep(0.05)
            cleaned.append(True)

    result = command_that(act)
    assert (result.exit_code, result.output, cleaned) == (code, "stopped.\n", [True])
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_nohup_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = command_that(lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert result.exit_code == 0 and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_held_back_until_the_end_of_the_block(number):
    with stopping.interrupting() as last, pytest.raises(KeyboardInterrupt), stopping.deferred_signals() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert asked()
    assert last() == number


def test_only_a_second_ctrl_c_is_obeyed_at_once(monkeypatch):
    monkeypatch.setattr(stopping, "REPEAT_SECONDS", 0.0)
    reached = []
    with stopping.interrupting(), pytest.raises(KeyboardInterrupt), stopping.deferred_signals():
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            reached.append(number)
            signal.raise_signal(number)
        reached.append(None)
    assert len(reached) == 4


def test_threads_hold_nothing_back():
    asked = []

    def work():
        with stopping.interrupting(), stopping.deferred_signals() as hold:
            asked.append(hold())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]


FOLLOW = """
import time
from dfflib import stopping
with stopping.interrupting() as last:
    try:
        stopping.stop_with_parent()
        print("at work", flush=True)
        time.sleep(1)
        time.sleep(30)
    except KeyboardInterrupt:
        print(last(), flush=True)
"""


def test_who_is_led_stops_when_its_input_closes():
    environment = {**os.environ, stopping.PARENT: "1"}
    command = [sys.executable, "-c", FOLLOW]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as led:
        assert led.stdout.readline() == b"at work\n"
        led.stdin.close()
        assert led.stdout.read() == b"%d\n" % signal.SIGTERM
