import signal
import subprocess
import sys
import time

import pytest

from boceto.errors import Stopped
from trainer.stop import Stop

PROGRAM = """
import sys, time
from trainer.stop import on_signals
with on_signals(float(sys.argv[1]), lambda text: print(text, flush=True)) as stop:
    print("ready", flush=True)
    if sys.argv[2] == "polite":
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
