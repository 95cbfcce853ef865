"""Pictures in lists: each goes into the split of its list."""

import json
import shutil

import pytest
from PIL import Image, ImageDraw

from boceto import dataset, storage
from boceto.__main__ import main

MAPPING = "cat\t0\nhot dog\t1\n"
PER_CLASS = 6


def _sketch(label, number):
    """Black lines on white paper: a bar of its class and a dot of its own."""
    picture = Image.new("L", (40, 30), "white")
    pen = ImageDraw.Draw(picture)
    pen.line((4, 6 + 12 * label, 34, 6 + 12 * label), "black", 2)
    pen.rectangle((5 * number, 24, 5 * number + 2, 28), "black")
    return picture


@pytest.fixture
def folder(tmp_path):
    """Two classes of six pictures: four to train on, two to test."""
    found = tmp_path / "sketches"
    lists = {"train": [], "test": []}
    for label, name in enumerate(("cat", "hot dog")):
        (found / "png" / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            _sketch(label, number).save(found / "png" / name / f"{number}.png")
            lists["train" if number < 4 else "test"].append(f"png/{name}/{number}.png\t{label}\n")
    (found / "mapping.txt").write_text(MAPPING)
    for split, lines in lists.items():
        (found / f"{split}.txt").write_text("".join(lines))
    return found


def _add(path, line):
    with path.open("a") as file:
        file.write(f"{line}\n")


def _prepare(folder, output, *more):
    words = ["--source", "image_list", "--input", folder, "--output", output, "--size", 16, "--workers", 1]
    return main([str(word) for word in ["prepare", *words, "--no-preview", *more]])


def _keys(output):
    """The keys of each split's records, sorted."""
    data = dataset.load(str(output))
    splits = {name: data.split(name) for name in dataset.SPLITS if data.manifest.splits[name].records}
    return {name: sorted(key.decode() for key in split.keys(range(len(split)))) for name, split in splits.items()}


def test_each_picture_is_in_the_split_of_its_list_whatever_the_numbers_a_class(folder, tmp_path):
    assert _prepare(folder, tmp_path / "data", "--train-per-class", 1, "--records-per-shard", 3) == 0
    manifest = dataset.load(str(tmp_path / "data")).manifest
    assert manifest.classes == ["cat", "hot dog"]
    assert {name: split.per_class for name, split in manifest.splits.items()} == {
        "train": [4, 4], "validation": [0, 0], "test": [2, 2]
    }  # fmt: skip
    assert [len(split.shards) for split in manifest.splits.values()] == [3, 0, 2]
    assert manifest.short == {}
    assert _keys(tmp_path / "data")["test"] == [f"png/{name}/{n}.png" for name in ("cat", "hot dog") for n in (4, 5)]


def test_the_order_of_the_lines_and_how_they_are_written_change_nothing(folder, tmp_path):
    assert _prepare(folder, tmp_path / "data") == 0
    for name in ("train.txt", "test.txt", "mapping.txt"):
        lines = (folder / name).read_text().splitlines()[::-1]
        text = "\r\n\r\n".join(line.replace("png/cat", ".\\png\\cat").replace("\t1", "\thot dog") for line in lines)
        (folder / name).write_text(text if name != "mapping.txt" else "\n".join(lines), "utf-8-sig")
    assert _prepare(folder, tmp_path / "again") == 0
    first, again = (dataset.load(str(tmp_path / name)).manifest for name in ("data", "again"))
    assert first.digest == again.digest
    assert first.refused == again.refused == {}


def test_a_third_list_and_a_share_of_the_training_pictures_are_for_validation(folder, tmp_path):
    (folder / "validation.txt").write_text((folder / "test.txt").read_text())
    (folder / "test.txt").unlink()
    assert _prepare(folder, tmp_path / "data", "--validation-share", 0.25) == 0
    manifest = dataset.load(str(tmp_path / "data")).manifest
    assert [manifest.splits[name].per_class for name in dataset.SPLITS] == [[3, 3], [3, 3], [0, 0]]


def test_without_a_mapping_a_label_is_a_class(folder, tmp_path):
    (folder / "mapping.txt").unlink()
    assert _prepare(folder, tmp_path / "data") == 0
    assert dataset.load(str(tmp_path / "data")).manifest.classes == ["0", "1"]


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_a_picture_that_is_in_two_lists_under_two_names_stays_in_the_test_split(folder, tmp_path, label, seed):
    shutil.copy(folder / "png" / "cat" / "4.png", folder / "png" / "copy.png")
    _add(folder / "train.txt", f"png/copy.png\t{label}")
    assert _prepare(folder, tmp_path / "data", "--seed", seed) == 0
    assert dataset.load(str(tmp_path / "data")).manifest.duplicates == {"ink": 0, "key": 0, "picture": 1}
    keys = _keys(tmp_path / "data")
    assert "png/cat/4.png" in keys["test"]
    assert "png/copy.png" not in keys["train"]
    assert len(keys["train"]) == 8


@pytest.mark.parametrize(
    ("list_and_line", "reason", "what"),
    [
        ("train.txt:png/cat/4.png\t0", "listed_twice", "line 9 names png/cat/4.png, as test.txt, line 1 does"),
        ("train.txt:png/cat/4.png\t1", "listed_twice", "line 9 names png/cat/4.png, as test.txt, line 1 does"),
        ("test.txt:./png/cat/4.png\t0", "listed_twice", "line 5 names png/cat/4.png, as test.txt, line 1 does"),
        ("train.txt:png/cat/9.png\t0", "missing_file", "line 9 names png/cat/9.png, and the folder has no such file"),
        ("test.txt:../secret.png\t0", "missing_file", "line 5 names ../secret.png, and the folder has no such file"),
    ],
)
def test_a_line_that_cannot_be_used_is_refused_and_counted(folder, capsys, list_and_line, reason, what):
    tmp_path = folder.parent
    (tmp_path / "secret.png").write_bytes((folder / "png" / "cat" / "4.png").read_bytes())
    name, line = list_and_line.split(":")
    _add(folder / name, line)
    assert _prepare(folder, tmp_path / "data") == 65
    assert f"1 of 13 drawings are bad, more than prepare.max_refused = 0.01 allows ({reason} 1)" in (
        said := capsys.readouterr().err
    )
    assert what in said
    refused = json.loads((tmp_path / "data" / "refused.jsonl").read_text())
    where = {"file": name, "line": int(what.split()[1]), "text": line.partition("\t")[0]}
    assert refused == where | {"reason": reason, "what": what, "lost": 1}
    assert _prepare(folder, tmp_path / "data", "--max-refused", 0.1) == 0
    assert dataset.load(str(tmp_path / "data")).manifest.refused == {reason: 1}
    assert [len(keys) for keys in _keys(tmp_path / "data").values()] == [8, 4]


def test_a_broken_picture_is_named(folder, tmp_path, capsys):
    (folder / "png" / "cat" / "2.png").write_bytes(b"broken")
    assert _prepare(folder, tmp_path / "data") == 65
    assert "in png/cat/2.png, damaged_image: it is no picture that Pillow can read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "code", "message"),
    [
        (("train.txt", "png/cat/1.png\t7\n"), 65, "train.txt, line 1: label '7' is no class and no index of mapping"),
        (("train.txt", "\npng/cat/1.png 0\n"), 65, "train.txt, line 2: 'png/cat/1.png 0' has no TAB between two texts"),
        (("train.txt", b"\xff\t0\n"), 65, "train.txt is no UTF-8 text"),
        (("train.txt", "png/cat/1.png\tc\x07t\n"), 65, "train.txt, line 1: label 'c\\x07t' is no class"),
        (("png/cat/\udce9.png", "latin-1"), 2, "the file name 'png/cat/\\udce9.png' is no readable text; rename it"),
        (("train.txt", None), 2, "holds no train.txt"),
        (("mapping.txt", "cat\t0\nhot dog\t0\n"), 65, "mapping.txt, line 2: 'hot dog' or '0' stands there twice"),
        (("mapping.txt", "cat\t0\ncat\t1\n"), 65, "mapping.txt, line 2: 'cat' or '1' stands there twice"),
        (("mapping.txt", "0\tcat\n"), 65, "mapping.txt, line 1: '0' or 'cat' stands there twice, or is no index"),
        (("test.txt", "png/cat/1.png\t0\npng/cat/2.png\t0\npng/cat/3.png\t0\npng/cat/0.png\t0\n"), 65,
         "category 'cat' has 0 training drawings, 1 are wanted"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_are_refused_in_one_line(folder, capsys, file, code, message):
    path, text = folder / file[0], file[1]
    path.unlink() if text is None else path.write_bytes(text.encode() if isinstance(text, str) else text)
    assert _prepare(folder, folder.parent / "data", "--max-refused", 1) == code
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]


def test_lists_in_object_storage_are_as_on_this_machine(folder, tmp_path):
    assert _prepare(folder, tmp_path / "data") == 0
    for path in folder.rglob("*.*"):
        storage.write_bytes(f"memory://lists/{path.relative_to(folder)}", path.read_bytes())
    assert _prepare("memory://lists", tmp_path / "other") == 0
    assert _keys(tmp_path / "other") == _keys(tmp_path / "data")
    assert dataset.load(str(tmp_path / "other")).manifest.digest == dataset.load(str(tmp_path / "data")).manifest.digest
