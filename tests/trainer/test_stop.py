import signal
import subprocess
import sys
import time

import pytest

from boceto import process
from boceto.errors import Stopped
from trainer.stop import NOTHING_LOST, Stop

PROGRAM = """
import sys, time
from trainer.stop import on_signals
with on_signals(float(sys.argv[1]), lambda text: print(text, flush=True)) as stop:
    if sys.argv[2] == "lost":
        stop.request()
    print("ready", flush=True)
    if sys.argv[2] != "busy":
        stop.wait(60)
        print("asked", flush=True)
        time.sleep(0.3)
        sys.exit(75)
    while True:  # As in a long call: the interpreter comes to no signal handler.
        sum(range(10**6))
"""


def program(grace, kind):
    words = [sys.executable, "-c", PROGRAM, str(grace), kind]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks(number):
    with program(30, "polite") as process:
        process.send_signal(number)
        assert process.stdout.read() == "asked\n"
    assert process.returncode == 75


def test_the_first_signal_after_another_request_to_stop_still_asks():
    with program(30, "lost") as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "asked\n"
    assert process.returncode == 75


def test_the_second_one_ends_it_at_once():
    with program(30, "busy") as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert "stopped at once" in process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM


def test_it_ends_within_its_grace():
    with program(0.5, "busy") as process:
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()
        assert time.monotonic() - began > 0.4
        assert "not saved within train.grace = 0.5 s" in said
    assert process.returncode == 1


def test_where_there_is_nothing_to_save_it_ends():
    stop = Stop()
    stop.check()
    stop.request()
    with pytest.raises(Stopped, match="nothing was lost"):
        stop.check()


def test_a_request_just_before_a_block_that_has_nothing_to_save_is_not_lost(monkeypatch):
    stop, ended = Stop(), []
    check = stop.check

    def requested_after_the_check():
        check()
        stop.request()

    monkeypatch.setattr(stop, "check", requested_after_the_check)
    monkeypatch.setattr(process, "leave_at_once", ended.append)
    with pytest.raises(Stopped), stop.at_once(lambda: ended.append("tidied")):
        pass
    assert ended == ["tidied", NOTHING_LOST]
