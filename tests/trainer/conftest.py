import json
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from boceto import checkpoint
from boceto.console import quiet
from trainer import environment

hypothesis.settings.register_profile("trainer", deadline=None)  # A noisy machine proves nothing.
hypothesis.settings.load_profile("trainer")

environment.prepare()
with quiet():
    import tensorflow as tf

# Devices are fixed when TensorFlow starts: one process for all tests has as many as any of them needs.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)

from trainer.__main__ import main  # noqa: E402

SMALL = ("--width-multiplier", "0.0625", "--embedding", "8", "--batch-size", "8", "--no-tensorboard", "--readers", "2")


class TrainedRun:
    """One run folder, and `boceto train` over it."""

    def __init__(self, folder: Path, data: str, capsys) -> None:
        self.folder = folder
        self.flags = ["--data", data, "--run", str(folder), "--net", "small", *SMALL]
        self._capsys = capsys

    def train(self, *flags: str) -> tuple[int, str]:
        """Trains; returns the exit code and what it said on standard error."""
        code = main([*self.flags, *flags])
        return code, self._capsys.readouterr().err

    def arrays(self, step: int) -> dict[str, np.ndarray]:
        return dict(checkpoint.load(str(self.folder), step)[1])

    def steps(self) -> list[int]:
        return sorted(int(path.name) for path in (self.folder / checkpoint.FOLDER).iterdir())

    def history(self) -> list[dict]:
        lines = [json.loads(line) for line in (self.folder / "history.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name != "chain"} for line in lines]


@pytest.fixture
def make_run(make_data, tmp_path, capsys):
    """`make_run("a", classes=2)` makes a data set once and an empty run over it."""

    def make(name="run", **data) -> TrainedRun:
        folder = tmp_path / "data"
        url = str(folder) if folder.exists() else make_data(**data)
        return TrainedRun(tmp_path / name, url, capsys)

    return make
