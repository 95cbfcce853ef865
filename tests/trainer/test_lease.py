import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from boceto import contract, storage
from boceto.errors import Stopped
from boceto.lease import NAME, UNREADABLE, Heartbeat, Holder, begun
from trainer.lease import Held, held
from trainer.stop import Stop

TERM = 1.0


@pytest.fixture(params=["memory", "files"])
def run(request, tmp_path):
    return f"memory://lease/{tmp_path.name}" if request.param == "memory" else str(tmp_path)


def hold(run, stop=None, said=None, seconds=dict, term=TERM):
    return held(run, term, stop or Stop(), (said if said is not None else []).append, seconds)


def written(run):
    return json.loads(storage.read_bytes(storage.join(run, NAME)))


def until(happened):
    while not happened():
        time.sleep(0.01)


def elsewhere(run, **changes):
    """Leaves the lease of a holder on another machine."""
    holder = Holder("token", "far", "kernel/namespace", 7, "1", TERM, 0.0, released=False, heartbeat=Heartbeat(5))
    text = dataclasses.replace(holder, **changes).to_json()
    storage.write_bytes(storage.join(run, NAME), text)
    return text


def test_it_is_renewed_and_given_back(run):
    with hold(run, seconds=lambda: {"computing": 2.0}):
        first = written(run)
        assert (first["process"], first["released"]) == (os.getpid(), False)
        until(lambda: written(run)["renewed"] > first["renewed"])
    last = written(run)
    assert last["released"]
    assert last["heartbeat"] == {"step": 0, "seconds": {"computing": 2.0}, "sessions": 1, "saved": 0}
    with hold(run, seconds=lambda: {"computing": 1.0}) as lease:
        assert lease.before == Heartbeat(0, {"computing": 2.0}, 1)
    assert written(run)["heartbeat"]["seconds"] == {"computing": 3.0}


def test_a_second_one_on_this_machine_is_told_who_holds_it(run):
    with hold(run), pytest.raises(Held, match=rf"process {os.getpid()} on .* is training this run"), hold(run):
        pass
    assert written(run)["released"]
    assert Held.exit_code == 1


def test_one_that_is_renewed_elsewhere_is_left_alone(run):
    elsewhere(run, term=60.0)
    beats = threading.Timer(0.3, elsewhere, (run,), {"renewed": 1.0})
    beats.start()
    with pytest.raises(Held, match="process 7 on far is training this run"), hold(run):
        pass
    assert written(run)["host"] == "far"


def test_one_that_cannot_be_read_and_changes_is_left_alone(run):
    path = storage.join(run, NAME)
    storage.write_bytes(path, b"of a later version")
    beats = threading.Timer(0.3, storage.write_bytes, (path, b"of a later version, renewed"))
    beats.start()
    with pytest.raises(Held, match="is training this run"), hold(run, term=10.0):
        pass
    assert storage.read_bytes(path) == b"of a later version, renewed"


def test_a_dead_holder_elsewhere_loses_it_after_a_term(run):
    elsewhere(run)
    said = []
    began = time.monotonic()
    with hold(run, said=said) as lease:
        assert time.monotonic() - began >= TERM
        assert lease.before.step == 5
    assert said == ["process 7 on far held this run's lease; it is ours if it is not renewed within 1 s"]


def test_a_clock_that_was_set_back_or_forward_changes_nothing(run):
    for renewed in (0.0, time.time() + 1e9):
        elsewhere(run, renewed=renewed)
        with hold(run) as lease:
            lease.confirm()


def resealed(**heartbeat):
    """The lease of a holder elsewhere, with these numbers in its heartbeat."""
    entry = dataclasses.asdict(Holder("token", "far", "", 7, "1", TERM, 0.0, released=True, heartbeat=Heartbeat()))
    return contract.sealed(entry | {"heartbeat": heartbeat})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"format": "boceto-lease", "version": 1, "process": "x"}',
        resealed(seconds={"computing": 1e12}),
        resealed(seconds={"computing": 4e11, "waiting": 4e11}),
        resealed(sessions=2**53),
    ],
)
def test_one_that_cannot_be_read_is_taken_over_after_a_term(run, text):
    storage.write_bytes(storage.join(run, NAME), text)
    said = []
    with hold(run, said=said):
        assert written(run)["process"] == os.getpid()
    assert "cannot be read" in said[0]


def test_who_lost_it_stops_and_leaves_the_winner_alone(run):
    stop = Stop()
    with hold(run, stop) as lease:
        text = elsewhere(run)
        assert stop.wait(60)
        with pytest.raises(Stopped, match="taken over by process 7 on far; nothing more is written here"):
            lease.confirm()
    assert storage.read_bytes(storage.join(run, NAME)) == text


def test_a_storage_that_is_away_for_a_while_costs_nothing(run, monkeypatch):
    def away(*_):
        raise storage.Unavailable("away")

    with hold(run) as lease:
        monkeypatch.setattr(storage, "replace_bytes", away)
        time.sleep(1.2 * TERM)
        with pytest.raises(storage.Unavailable):
            lease.confirm()
        monkeypatch.undo()
        lease.confirm()


def test_a_stop_ends_the_waiting(run):
    elsewhere(run, term=60.0)
    stop = Stop()
    threading.Timer(0.2, stop.request).start()
    with pytest.raises(Stopped, match="before its first step"), hold(run, stop):
        pass


def test_one_of_many_gets_it(run):
    won, lost = [], []
    begin = threading.Barrier(8)

    def contend():
        begin.wait()
        try:
            with hold(run):
                won.append(written(run)["token"])
                until(lambda: len(won) + len(lost) == 8)
        except Held:
            lost.append(1)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


HOLDER = """
import sys, time
from trainer.lease import held
from trainer.stop import Stop
with held(sys.argv[1], 600.0, Stop(), print, dict):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_holder_of_this_machine_loses_it_at_once(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Held, match=f"process {process.pid} on"), hold(str(tmp_path)):
            pass
        process.send_signal(signal.SIGKILL)
        until(lambda: not begun(process.pid))  # It is gone, or only its exit status is left.
        began = time.monotonic()
        with hold(str(tmp_path)):
            assert time.monotonic() - began < 300
    assert process.returncode == -signal.SIGKILL


def test_a_renewal_whose_answer_was_lost_is_still_ours(run, monkeypatch):
    replace = storage.replace_bytes

    def lost(*given):
        monkeypatch.setattr(storage, "replace_bytes", replace)
        replace(*given)
        raise storage.Unavailable("the answer was lost")

    with hold(run) as lease:
        monkeypatch.setattr(storage, "replace_bytes", lost)
        until(lambda: storage.replace_bytes is replace)
        lease.confirm()
    assert written(run)["released"]


def test_one_whose_file_was_removed_stays_ours(run):
    stop = Stop()
    with hold(run, stop) as lease:
        storage.delete(storage.join(run, NAME))
        assert not stop.wait(TERM)
        lease.confirm()
        assert written(run)["process"] == os.getpid()


@pytest.mark.parametrize(
    ("changes", "beat"),
    [
        ({"term": 1e9}, {}),
        ({"term": -1.0}, {}),
        ({"term": "NaN"}, {}),
        ({"term": "1e400"}, {}),
        ({"process": "1" + "0" * 400}, {}),
        ({}, {"step": -1}),
        ({}, {"saved": "1" + "0" * 400}),
        ({}, {"seconds": {"computing": "1e400"}}),
        ({}, {"seconds": {"computing": 1e308, "saving": 1e308}}),
        ({}, {"seconds": {"computing": -1.0}}),
    ],
)
def test_one_with_impossible_numbers_is_waited_for_no_longer_than_for_one_that_cannot_be_read(run, changes, beat):
    entry = json.loads(elsewhere(run)) | changes
    entry["heartbeat"] |= beat
    # Numbers that Python's writer does not make stand in quotes above.
    text = re.sub(rb'"(NaN|1e400|10{400})"', rb"\1", contract.sealed(entry))
    first, last = re.search(rb'"seal": "(.{32})"', text).span(1)
    blank = text[:first] + b"0" * 32 + text[last:]
    storage.write_bytes(storage.join(run, NAME), text[:first] + contract.digest(blank).encode() + text[last:])
    said = []
    with hold(run, said=said) as lease:
        assert lease.before == Heartbeat()
    assert said == [f"{UNREADABLE} held this run's lease; it is ours if it is not renewed within 1 s"]
    assert written(run)["released"]
