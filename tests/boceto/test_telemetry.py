import contextlib
import errno
import re
import socket
import struct
import threading
import time
import urllib.request

import pytest

from boceto import exposition, telemetry
from boceto.errors import DataError, SettingsError, Stopped
from boceto.exposition import serving
from boceto.telemetry import METRICS


def metrics(port, client="127.0.0.1", path="/metrics"):
    """The answer, read to the end of the connection: by then the server has noted the scrape."""
    address = "::1" if ":" in client else "127.0.0.1"
    with socket.create_connection((address, port), 120, (client, 0)) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            return answer.read().partition(b"\r\n\r\n")[2].decode()


class Wait:
    """Stands for the time of a linger: scrapes in the second look of it, from as many addresses as are given."""

    def __init__(self, port, *clients):
        self.port, self.clients, self.looks, self.seen = port, clients, 0, []

    def __call__(self, seconds):
        self.looks += 1
        if self.looks > 1 and self.clients:
            client, *self.clients = self.clients
            self.seen.append(metrics(self.port, client))
        time.sleep(0.01)


def test_what_prometheus_reads(port):
    with serving("train", port, 0) as tell:
        tell.serve()
        before = metrics(port)
        tell.set(telemetry.RUN, 1, net="sknet", data="d1")
        tell.add(telemetry.STEPS, 2)
        tell.add(telemetry.STEPS, 1)
        tell.add(telemetry.SECONDS, 2.5, activity="computing")
        tell.set(telemetry.LOSS, 0.5, split="train")
        tell.observe(telemetry.SAVE_SECONDS, 0.2)
        text = metrics(port)
        assert tell.text().decode().splitlines()[0] in text
    # A gauge that nobody has set would be a measurement of 0; a counter without its 0 would hide its first increase.
    assert "boceto_train_checkpoint_timestamp_seconds" not in before
    assert 'boceto_train_saves_total{result="disk_full"} 0.0' in before
    assert 'boceto_build_info{program="train",version="' in before
    assert 'boceto_train_run_info{data="d1",net="sknet"} 1.0' in text
    assert "boceto_train_steps_total 3.0" in text
    assert 'boceto_train_seconds_total{activity="computing"} 2.5' in text
    assert 'boceto_train_seconds_total{activity="saving"} 0.0' in text
    assert 'boceto_train_loss{split="train"} 0.5' in text
    assert 'boceto_train_save_seconds_bucket{le="0.3"} 1.0' in text
    names = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    assert not [name for name in names if name.startswith(("boceto_prepare_", "boceto_eval_"))]
    assert all(name.startswith(("boceto_", "process_")) for name in names)
    with pytest.raises(OSError, match="refused"):
        metrics(port)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_says_its_kind_and_unit(metric):
    assert re.fullmatch(r"boceto_(build|exit|prepare|train|eval)_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == telemetry.COUNTER)
    assert not re.search(r"_(milli|minutes|hours|percent|mb|megabytes|count)", metric.name)
    assert metric.help[-1] != "."
    assert all(re.fullmatch("[a-z]+", label) for label in metric.labels)


def test_a_taken_port_is_refused(port):
    def serve():
        with serving("eval", port, 9, pytest.fail) as tell:
            tell.set(telemetry.MAP, 0.5, distance="l2", net="sknet", data="d1")
            tell.serve()

    with serving("train", port, 0) as tell:
        tell.serve()
        with pytest.raises(SettingsError, match=f"eval.metrics_port = {port}: .*use another port, or 0"):
            serve()


def test_a_machine_that_has_no_more_files_is_no_taken_port(port, monkeypatch):
    def fails(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(exposition, "MetricsServer", fails)
    with serving("train", port, 0) as tell, pytest.raises(OSError, match="Too many open files"):
        tell.serve()


def ask(port, words=b""):
    connection = socket.create_connection(("127.0.0.1", port), 120)
    connection.sendall(words)
    return connection


def test_silent_connections_keep_nobody_out(port):
    with serving("train", port, 0) as tell, contextlib.ExitStack() as stack:
        tell.serve()
        before = threading.active_count()
        silent = [stack.enter_context(ask(port)) for _ in range(3 * exposition.MOST)]
        assert "boceto_train_steps_total 0.0" in metrics(port)
        assert silent[0].recv(1) == b""  # The oldest had to make room.
        until = time.monotonic() + 120
        while threading.active_count() > before + exposition.MOST and time.monotonic() < until:
            time.sleep(0.05)
        assert threading.active_count() <= before + exposition.MOST


def test_who_asks_a_byte_at_a_time_is_ended_in_the_end(port, monkeypatch):
    monkeypatch.setattr(exposition, "PATIENCE", 1.0)
    with serving("train", port, 0) as tell, contextlib.ExitStack() as stack:
        tell.serve()
        slow = stack.enter_context(ask(port, b"GET /metrics HTTP/1.1\r\n"))
        slow.settimeout(0.1)
        until, ended = time.monotonic() + 120, False
        while time.monotonic() < until and not ended:
            with contextlib.suppress(TimeoutError):
                slow.sendall(b"x")  # Each byte comes in time; the whole does not.
                ended = slow.recv(1) == b""
        assert ended
        assert "boceto_train_steps_total 0.0" in metrics(port)


def _has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as there:
        there.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
def test_a_pod_that_has_ipv6_alone_can_be_scraped(port):
    with serving("train", port, 0) as tell:
        tell.serve()
        assert "boceto_train_steps_total 0.0" in metrics(port, "::1")
        assert "boceto_train_steps_total 0.0" in metrics(port)


def test_port_0_tells_nobody():
    with serving("train", 0, 9, pytest.fail) as tell:
        tell.serve()
        tell.add(telemetry.STEPS)
        tell.set(telemetry.LOSS, 0.5, split="train")
        tell.observe(telemetry.SAVE_SECONDS, 1)
        assert tell.text() == b""


@pytest.mark.parametrize("error", [None, DataError("the loss is nan"), OSError("no disk")], ids=str)
def test_the_last_values_wait_for_two_scrapes_where_there_was_none(port, error):
    wait = Wait(port, "127.0.0.1", "127.0.0.1")

    def work():
        with serving("train", port, 30, wait) as tell:
            tell.serve()
            tell.add(telemetry.NOT_FINITE)
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    assert "boceto_train_not_finite_total 1.0" in wait.seen[0]
    assert wait.looks == 3  # No longer than that.
    with pytest.raises(OSError, match="refused"):
        metrics(port)


def test_the_last_values_wait_for_all_that_scraped_before(port):
    wait = Wait(port, "127.0.0.1", "127.0.0.1", "127.0.0.2")
    with serving("train", port, None, wait) as tell:
        tell.serve()
        tell.add(telemetry.STEPS)
        metrics(port)
        metrics(port, "127.0.0.2")
    assert len(wait.seen) == 3


@pytest.mark.parametrize("path", [None, "/", "/healthz"])
def test_a_job_that_nobody_scrapes_ends_at_once(port, path):
    with serving("train", port, None, pytest.fail) as tell:
        tell.serve()
        tell.add(telemetry.STEPS)
        if path:
            metrics(port, path=path)  # A probe.


def test_a_wait_for_a_scrape_has_an_end(port):
    wait = Wait(port)
    with serving("train", port, 0.5, wait) as tell:
        tell.serve()
        tell.add(telemetry.STEPS)
    assert wait.looks > 1


def test_a_stop_ends_the_wait(port):
    with serving("train", port, 3600, lambda seconds: True) as tell:
        tell.serve()
        tell.add(telemetry.STEPS)


@pytest.mark.parametrize("error", [Stopped("saved"), SettingsError("no"), KeyboardInterrupt()], ids=repr)
def test_what_is_asked_to_end_ends_at_once(port, error):
    def work():
        with serving("train", port, 7, pytest.fail) as tell:
            tell.serve()
            tell.add(telemetry.STEPS)
            raise error

    with pytest.raises(type(error)):
        work()


def test_nothing_lingers_where_nothing_was_told(port):
    with serving("train", port, 7, pytest.fail) as tell:
        tell.serve()


def test_ctrl_c_ends_the_wait_and_not_the_result(port):
    def wait(seconds):
        raise KeyboardInterrupt

    with serving("prepare", port, 7, wait) as tell:
        tell.serve()
        tell.add(telemetry.READ, 3)
    assert b"boceto_prepare_drawings_read_total 3.0" in tell.text()


def test_a_scraper_that_gives_up_is_no_news(port, capfd):
    with serving("train", port, 0.0) as tell:
        tell.serve()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as scraper:
                scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # Ends in a reset.
                scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.status == 200
            assert int(answer.headers["Content-Length"]) == len(answer.read())  # Nobody has to wait for the end.
    assert "Traceback" not in capfd.readouterr().err
