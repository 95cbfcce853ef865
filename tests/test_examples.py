"""Each file of examples/: its commands are read as they stand, and its first ones run at toy size."""

import csv
import json
import re
import shlex
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_pipelines.settings import Settings as Prepare
from boceto.__main__ import GROUP
from boceto.settings import parse
from eval_jobs.settings import PredictSettings
from eval_jobs.settings import Settings as Eval
from trainer.settings import Settings as Train

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "examples").glob("*.toml"))
SETTINGS = {"prepare": Prepare, "train": Train, "eval": Eval, "predict": PredictSettings}
CLASSES = ("cat", "dog", "sun")


def _commands(path):
    """The words of each command in the comments of a file, behind `boceto`."""
    return [shlex.split(line) for line in re.findall(r"^#     boceto (.*)$", path.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_commands_of_an_example_are_whole(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = _commands(path)
    assert [verb for verb, *_ in commands][:3] == ["prepare", "train", "eval"]
    for verb, *words in commands:
        assert words[:2] == ["--config", f"examples/{path.name}"]
        assert parse(SETTINGS[verb], verb, words, "")


def _lines(folder):
    """Files of drawings, as QuickDraw has them."""
    folder.mkdir(parents=True)
    for label, name in enumerate(CLASSES):
        drawings = [[[[number, 200 - label], [9, 30 * label + number]]] for number in range(8)]
        lines = [json.dumps({"word": name, "drawing": drawing}) for drawing in drawings]
        (folder / f"{name}.ndjson").write_text("\n".join(lines) + "\n")


def _pictures(folder, names):
    """Pictures of a class, black on white."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        page = np.full((40, 40), 255, np.uint8)
        page[10 + number : 14 + number, 5 + len(folder.name) : 30] = 0
        Image.fromarray(page).save(folder / name)


def _tuberlin(folder):
    """Pictures, and the course's lists of them."""
    names = [f"{number}.png" for number in range(10)]
    for name in CLASSES:
        _pictures(folder / "png" / name, names)
    lists = {"train.txt": names[:8], "test.txt": names[8:]}
    for file, chosen in lists.items():
        rows = [f"png/{name}/{each}\t{label}" for label, name in enumerate(CLASSES) for each in chosen]
        (folder / file).write_text("\n".join(rows) + "\n")
    (folder / "mapping.txt").write_text("".join(f"{name}\t{label}\n" for label, name in enumerate(CLASSES)))


def _competition(folder):
    for name in CLASSES:
        _pictures(folder / "train" / name, [f"{number}.png" for number in range(8)])
    _pictures(folder / "unlabelled", ["x.png", "y.png"])


TOY = ["--width-multiplier", "0.0625", "--embedding", "8", "--batch-size", "8", "--no-tensorboard"]
INPUTS = {
    "quickdraw100": (_lines, "quickdraw", ["--classes", "3", "--train-per-class", "6", "--test-per-class", "2"]),
    "tuberlin": (_tuberlin, "tuberlin", []),
    "competition": (_competition, "competition", []),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_runs_at_toy_size(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    programs = {entry.name: entry.load() for entry in metadata.entry_points(group=GROUP)}
    make, folder, sizes = INPUTS[path.stem]
    make(tmp_path / folder)

    def run(verb, *words):
        code = programs[verb](["--config", str(path), *words])
        assert code == 0, capsys.readouterr().err

    toy = [*TOY, "--epochs"]
    run("prepare", "--size", "32", "--workers", "1", *sizes)
    run("train", *toy, "1")
    run("eval")
    if path.stem == "quickdraw100":
        run("predict", "--input", "quickdraw", "--output", "out.csv")
        assert len((tmp_path / "out.csv").read_text().splitlines()) == 25
    if path.stem == "competition":
        run("train", *toy, "2")
        run("train", *toy, "1", "--validation-share", "0", "--run", "runs/competition-final")
        run("predict")
        with (tmp_path / "submission.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["input"] for row in rows] == ["x.png", "y.png"]
        assert {row["label1"] for row in rows} <= set(CLASSES)
