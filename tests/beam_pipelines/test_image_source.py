"""A source of images is a file in the folder of sources: it goes through prepare, train and eval."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_pipelines import sources
from beam_pipelines.sources import Drawing
from boceto import dataset
from boceto.__main__ import main

SHAPE = (24, 32, 3)
EACH = 12


@pytest.fixture(autouse=True)
def _small_sources(monkeypatch):
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(Path(__file__).parents[1] / "small_sources")])


def _image(label, number):
    """A bar whose place is its class's, on noise of its own."""
    image = np.random.default_rng([label, number]).integers(0, 60, SHAPE, np.uint8)
    image[:, 8 * label : 8 * label + 8, label % 3] = 255
    return image


@pytest.fixture
def folder(tmp_path):
    """Three classes of PNG files; one is there twice, one in two classes, and one is damaged."""
    found = tmp_path / "tiles"
    for label, name in enumerate(("bar", "line", "stripe")):
        (found / name).mkdir(parents=True)
        for number in range(EACH):
            Image.fromarray(_image(label, number)).save(found / name / f"{number:02}.png")
    Image.fromarray(_image(0, 3)).save(found / "bar" / "twice.png")
    Image.fromarray(_image(0, 5)).save(found / "line" / "also.png")
    (found / "stripe" / "damaged.png").write_bytes(b"no image")
    return found


def _prepare(folder, output, *more):
    words = ["--source", "tiles", "--input", folder, "--output", output, "--height", 24, "--width", 32]
    counts = ["--train-per-class", 8, "--test-per-class", 3, "--workers", 1, "--max-refused", 0.1]
    return main([str(word) for word in ["prepare", *words, *counts, *more]])


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_records_and_each_is_taken_once(folder, tmp_path, channels):
    assert _prepare(folder, tmp_path / "data", "--channels", channels, "--train-per-class", 9, "--allow-fewer") == 0
    data = dataset.load(str(tmp_path / "data"))
    manifest = data.manifest
    assert manifest.shape == (*SHAPE[:2], channels)
    assert manifest.refused == {"damaged_image": 1}
    assert manifest.duplicates == {"ink": 0, "key": 0, "picture": 2}
    splits = [data.split(name) for name in ("train", "test")]
    assert sum(map(len, splits)) == 3 * EACH - (manifest.splits["train"].per_class[0] == 8)
    taken = [image for split in splits for image in split.images(np.arange(len(split)))]
    assert len({image.tobytes() for image in taken}) == len(taken)
    assert all(split.strokes(0) == b"" for split in splits)
    if channels == len(SHAPE):
        there = {_image(label, number).tobytes() for label in range(3) for number in range(EACH)}
        assert {image.tobytes() for image in taken} <= there
    assert (tmp_path / "data" / "preview.png").exists()


def test_the_same_files_are_the_same_data_set_and_a_changed_file_is_another(folder, tmp_path, capsys):
    assert _prepare(folder, tmp_path / "data") == _prepare(folder, tmp_path / "again") == 0
    digests = [dataset.load(str(tmp_path / name)).manifest.digest for name in ("data", "again")]
    assert digests[0] == digests[1]
    file = folder / "bar" / "00.png"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert _prepare(folder, tmp_path / "data") == 2
    assert "another bar: the file was changed since, though its size is the same" in capsys.readouterr().err


def test_a_bad_image_is_named_by_its_own_file(folder, tmp_path, capsys):
    assert _prepare(folder, tmp_path / "data", "--max-refused", 0) == 65
    assert "in stripe/damaged.png, damaged_image: " in capsys.readouterr().err
    refused = json.loads((tmp_path / "data" / "refused.jsonl").read_text())
    assert (refused["file"], refused["line"]) == ("stripe/damaged.png", EACH + 1)


def test_the_help_lists_the_files_of_the_folder():
    script = (
        "import sys; from beam_pipelines import sources; sources.__path__.append(sys.argv[1])\n"
        "from beam_pipelines.__main__ import main; main(['--help'])"
    )
    words = [sys.executable, "-c", script, str(Path(__file__).parents[1] / "small_sources")]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    assert "synthetic, tiles;" in " ".join(said.split())


def test_an_image_of_another_shape_names_its_source(folder, tmp_path, capsys, monkeypatch):
    grey = Drawing(image=np.zeros(SHAPE[:2], np.uint8))
    monkeypatch.setattr(sources.load("tiles"), "read", lambda *_: [grey])
    assert _prepare(folder, tmp_path / "data") == 65
    told = "source 'tiles' gives uint8[24, 32] from bar, and wanted is an image uint8[24, 32, 1] without strokes"
    assert told in capsys.readouterr().err


def test_a_net_trains_on_images_and_is_scored(folder, tmp_path):
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    assert _prepare(folder, data, "--channels", 3) == 0
    net = ["--net", "small", "--width-multiplier", "0.05"]  # Few weights to save.
    words = ["--data", data, "--run", run, *net, "--batch-size", "8", "--epochs", "1"]
    assert main(["train", *words]) == 0
    assert main(["eval", "--data", data, "--run", run]) == 0
    assert list(Path(run).rglob("scores.json"))
