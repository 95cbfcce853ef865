"""Pictures in folders: a folder is a class, or a split with classes in it."""

import pytest
from PIL import Image, ImageDraw

from beam_pipelines.settings import Settings
from beam_pipelines.sources import image_folder
from boceto import dataset
from boceto.__main__ import main
from boceto.errors import SettingsError


def _draw(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", (20, 20), "white")
    ImageDraw.Draw(picture).line((2, 2 + number, 18, 18 - number), "black", 2)
    picture.save(path)


def _folder(found, *folders, each=4):
    for at, folder in enumerate(folders):
        for number in range(each):
            _draw(found / folder / f"{number}.png", each * at + number)
    return found


def _planned(folder):
    return {part.name: len(part.urls) for part in image_folder.plan(Settings("", input=str(folder)))}


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["cat", "dog/left"], ["cat", "dog"]),
        (["train/cat", "test/cat"], ["test/cat", "train/cat"]),
        (["Train/cat", "Val/cat"], ["train/cat", "validation/cat"]),
        (["train", "test"], ["test", "train"]),  # Two classes: TU-Berlin has a class `train`.
        (["train", "cat"], ["cat", "train"]),
    ],
)
def test_folders_are_classes_or_splits_with_classes(tmp_path, folders, expected):
    assert _planned(_folder(tmp_path, *folders)) == dict.fromkeys(expected, 4)


def test_what_lies_outside_of_a_class_and_what_systems_leave_is_passed_over(tmp_path):
    _folder(tmp_path, "train/cat", "test/cat")
    for name in ("README.txt", "train/labels.csv", "train/cat/Thumbs.db", "train/cat/.DS_Store", "__MACOSX/cat/1.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no picture")
    assert _planned(tmp_path) == {"test/cat": 4, "train/cat": 4}


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (
            ["train/cat", "train/dog", "unlabelled"],
            "holds the split train/ beside unlabelled/, which is none; give --i",
        ),
        (["train/cat", "cat/small"], "holds the split train/ beside cat/"),
        (["train/cat", "test"], "test/ holds files beside the split train/, and no folder of a class"),
    ],
)
def test_folders_of_which_some_are_splits_are_refused(tmp_path, folders, said):
    with pytest.raises(SettingsError, match=said):
        _planned(_folder(tmp_path, *folders))


@pytest.mark.parametrize("name", ["", "nothing", "flat"])
def test_a_folder_without_classes_is_refused(tmp_path, name):
    _draw(tmp_path / "flat" / "1.png", 1)
    with pytest.raises(SettingsError, match="prepare.input"):
        image_folder.plan(Settings("", input=name and str(tmp_path / name)))


def _prepare(folder, output, *more):
    words = ["--source", "image_folder", "--input", folder, "--output", output, "--size", 16, "--workers", 1]
    return main([str(word) for word in ["prepare", *words, "--no-preview", *more]])


def _per_class(output):
    manifest = dataset.load(str(output)).manifest
    return {name: split.per_class for name, split in manifest.splits.items() if split.records}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--train-per-class", 3, "--test-per-class", 1], {"train": [3, 3], "test": [1, 1]}),
        (["--train-per-class", 0, "--test-per-class", 0], {"train": [6, 6]}),
        (["--train-per-class", 0, "--test-per-class", 1, "--validation-per-class", 2],
         {"train": [3, 3], "validation": [2, 2], "test": [1, 1]}),
        (["--train-per-class", 0, "--test-per-class", 1, "--validation-share", 0.2],
         {"train": [4, 4], "validation": [1, 1], "test": [1, 1]}),
        (["--train-per-class", 4, "--test-per-class", 0, "--validation-share", 0.5, "--validation-per-class", 1],
         {"train": [2, 2], "validation": [3, 3]}),
    ],
)  # fmt: skip
def test_prepare_divides_what_the_folders_do_not(tmp_path, flags, expected):
    folder = _folder(tmp_path / "in", "cat", "dog", each=6)
    assert _prepare(folder, tmp_path / "data", *flags) == 0
    assert _per_class(tmp_path / "data") == expected


def test_the_same_picture_in_two_splits_stays_in_the_test_split(tmp_path):
    folder = _folder(tmp_path / "in", "train/cat", "val/cat", "train/dog")
    _draw(folder / "test" / "cat" / "same.png", 1)  # As of train/cat.
    _draw(folder / "test" / "cat" / "too.png", 9)  # As of train/dog.
    assert _prepare(folder, tmp_path / "data") == 0
    assert _per_class(tmp_path / "data") == {"train": [3, 3], "validation": [4, 0], "test": [2, 0]}


def test_all_that_are_left_need_an_end(tmp_path, capsys):
    words = ["--source", "synthetic", "--output", str(tmp_path / "data"), "--train-per-class", "0", "--classes", "2"]
    assert main(["prepare", *words]) == 2
    assert "give --synthetic-drawings too" in capsys.readouterr().err


def test_large_files_are_refused_unread(tmp_path, monkeypatch, capsys):
    folder = _folder(tmp_path / "in", "cat")
    with (folder / "cat" / "data.zip").open("wb") as file:
        file.truncate((1 << 28) + 1)
    assert _prepare(folder, tmp_path / "data", "--train-per-class", 0, "--test-per-class", 0) == 65
    assert "in cat/data.zip, too_large: it has 268,435,457 bytes, more than 268,435,456" in capsys.readouterr().err
