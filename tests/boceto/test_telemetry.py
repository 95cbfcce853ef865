import re
import socket
import urllib.request

import pytest

from boceto.errors import SettingsError
from boceto.telemetry import serving


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def metrics(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return answer.read().decode()


def tell(telemetry):
    telemetry.info({"net": "sknet", "version": "1"})
    telemetry.steps(2, 512, {"waiting": 0.5, "computing": 1.5, "saving": 0.0})
    telemetry.steps(1, 256, {"waiting": 0.0, "computing": 1.0, "saving": 0.25})
    telemetry.scores("train", 0.5, 0.75)
    telemetry.state(1.5, 1e-3)


def test_what_prometheus_reads(port):
    with serving(port) as telemetry:
        tell(telemetry)
        text = metrics(port)
    assert 'boceto_train_run_info{net="sknet",version="1"} 1.0' in text
    assert "boceto_train_steps_total 3.0" in text
    assert "boceto_train_images_total 768.0" in text
    assert 'boceto_train_seconds_total{activity="computing"} 2.5' in text
    assert 'boceto_train_seconds_total{activity="saving"} 0.25' in text
    assert 'boceto_train_loss{split="train"} 0.5' in text
    assert 'boceto_train_accuracy_ratio{split="train"} 0.75' in text
    assert "boceto_train_epoch 1.5" in text
    assert "boceto_train_learning_rate 0.001" in text
    names = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    assert all(name.startswith("boceto_") for name in names)
    with pytest.raises(OSError, match="refused"):
        metrics(port)


def test_a_taken_port_is_refused(port):
    with serving(port), pytest.raises(SettingsError, match=f"train.metrics_port = {port}: .*use another port, or 0"):  # noqa: SIM117
        with serving(port):
            pass


def test_port_0_tells_nobody():
    with serving(0) as telemetry:
        tell(telemetry)
