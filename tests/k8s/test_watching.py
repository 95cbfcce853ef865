"""A real Prometheus scrapes a real data job, training and evaluation; every panel then has something to show."""

import contextlib
import json
import math
import re
import socket
import subprocess
import sys
import time

import pytest
import watch
import watched as asking
from watched import draw, get

PREPARE = ("--size", "16", "--line-width", "1", "--workers", "1", "--no-preview")
COUNTS = ("--train-per-class", "40", "--test-per-class", "10", "--validation-per-class", "5")
TRAIN = ("--width-multiplier", "0.0625", "--embedding", "16", "--batch-size", "16", "--epochs", "4", "--log-every", "5")
LINGER = {"prepare": "60", "train": "60", "eval": "60"}  # At most: two scrapes end it.


def free_ports(count):
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in taken:
            probe.bind((watch.HOST, 0))
        return [probe.getsockname()[1] for probe in taken]


def boceto(*words):
    done = subprocess.run([sys.executable, "-m", "boceto", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """-> (Prometheus's address, when it began, the page while the net was trained)."""
    folder = tmp_path_factory.mktemp("watched")
    port, *ports = free_ports(4)
    programs = {
        ports[0]: watch.target(ports[0], "prepare", "data"),
        ports[1]: watch.target(ports[1], "train", "first"),
        ports[2]: watch.target(ports[2], "eval", "first"),
    }
    lingers = zip(ports, LINGER.values(), strict=True)
    words = [("--metrics-port", str(number), "--metrics-linger", seconds) for number, seconds in lingers]
    data, run = str(folder / "data"), str(folder / "run")
    (folder / "input").mkdir()
    draw(folder / "input")
    began = time.time()
    with watch.prometheus(folder, port, programs, "1s") as address:
        boceto("prepare", "--input", str(folder / "input"), "--output", data, *PREPARE, *COUNTS, *words[0])
        boceto("train", "--data", data, "--run", run, *TRAIN, *words[1])
        boceto("eval", "--data", data, "--run", run, *words[2])
        yield address, began, folder


def series(watched, query):
    return asking.series(watched[0], query, watched[1])


def values(watched, query):
    """The last value of a program may be there for less than a second: it ends as soon as it is scraped."""
    return asking.values(watched[0], query, watched[1], "0.1")


@pytest.mark.parametrize("query", [pytest.param(query, id=title) for title, query in asking.PANELS])
def test_every_panel_has_data(watched, query):
    assert asking.shows(watched[0], query, watched[1])


def test_the_numbers_are_those_of_the_programs(watched):
    assert max(values(watched, 'boceto_prepare_records_written_total{run="data", namespace="local"}')) == 4 * 55
    assert max(values(watched, "boceto_prepare_drawings_read_total")) == 4 * 60 + 1
    assert max(values(watched, 'boceto_prepare_drawings_refused_total{reason="broken_json"}')) == 1
    ratios = values(watched, "boceto:prepare_refused:ratio")  # Not a number before the first drawing.
    assert max(filter(math.isfinite, ratios)) == pytest.approx(1 / 241)
    assert max(values(watched, 'boceto_train_step{run="first", component="train", pod="first-train"}')) == 40
    assert max(values(watched, "boceto_train_steps_total")) == 40
    assert max(values(watched, 'boceto_eval_drawings_total{split="test"}')) == 40
    # What the alerts join with: whether a pod of the run is there, by the same labels.
    assert max(values(watched, 'up{job="boceto", component="train", run="first", namespace="local"}')) == 1
    text = (watched[2] / "run" / "metrics.prom").read_text()
    assert "boceto_train_step 40.0" in text
    assert 'boceto_train_saves_total{result="saved"} 4.0' in text
    scores = json.loads(next((watched[2] / "run" / "eval").glob("*/scores.json")).read_text())
    mean = scores["retrieval"]["rankings"]["l2"]["mean_average_precision"]["value"]
    assert max(values(watched, 'boceto_eval_map_ratio{distance="l2"}')) == mean


def test_the_parts_of_the_wall_time_are_the_whole(watched):
    computing = "sum by (run) (boceto_train_run_seconds{activity='computing'})"
    share = f"({computing} / sum by (run) (boceto_train_run_seconds))"
    assert 0 < values(watched, share)[-1] < 1
    assert values(watched, f"max by (run) (boceto_train_goodput_ratio) / {share}")[-1] == pytest.approx(1)


def test_no_alert_fired_on_a_run_without_a_fault(watched):
    assert series(watched, 'ALERTS{alertstate="firing"}') == []


def test_the_page_shows_the_run_and_its_score(watched):
    page = get(f"{watched[0]}/consoles/boceto.html")
    table = page.partition('id="runs"')[2].partition("</table>")[0]
    names, cells = (re.findall(f"<{tag}>(.*?)</{tag}>", table) for tag in ("th", "td"))
    row = {name: re.sub("<.*?>", "", cell) for name, cell in zip(names, cells, strict=True)}
    assert (row["run"], row["namespace"], row["state"]) == ("first", "local", "done")
    assert (row["progress"], row["left"], row["sessions"]) == ("100 %", "\N{EN DASH}", "1")
    assert row["checkpoint"] == "step 40"
    assert re.fullmatch(r"step \d+", row["best"])
    assert row["exported"] == row["best"]
    numbers = ("epoch", "loss", "accuracy", "validation", "images/s", "waiting", "goodput")
    assert all(re.fullmatch(r"[\d.]+( %)?", row[name]) for name in numbers)
    assert "<td>first</td><td>local</td><td>sknet</td>" in page.partition('id="scores"')[2]
    assert '<h2 id="trainingstalled">' in get(f"{watched[0]}/consoles/runbook.html")


PATIENCE = 30.0  # Seconds.


def test_an_end_is_told(watched):
    expected, until = {(program, "0") for program in LINGER}, time.monotonic() + PATIENCE
    while True:  # What was scraped last may not be stored yet.
        codes = {(each["metric"]["component"], each["values"][-1][1]) for each in series(watched, "boceto_exit_code")}
        if codes == expected or time.monotonic() > until:
            break
        time.sleep(0.2)
    assert codes == expected
