import csv
import gzip
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from boceto import artefact, dataset, storage, strokes
from boceto.raster import Rasteriser
from eval_jobs import model, search
from eval_jobs.__main__ import predict as main

DRAWINGS = [[[[number, 200], [9, 250 - number]], [[3], [9]]] for number in range(7)]


@pytest.fixture
def predict(capsys):
    """Runs `boceto predict`: returns (exit code, standard output, standard error)."""

    def run(*words):
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


def _line(number, drawing):
    return json.dumps({"word": "any", "key_id": str(100 + number), "drawing": drawing}).encode() + b"\n"


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(search, "BLOCK", 7)


@pytest.fixture
def lines(tmp_path):
    """A file of drawings."""
    path = tmp_path / "drawn.ndjson"
    path.write_bytes(b"".join(map(_line, range(len(DRAWINGS)), DRAWINGS)))
    return path


def _csv(path):
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))


def _jsonl(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _expected(run, images):
    """The probabilities and embeddings of images, by hand."""
    logits, embedding = model.load(run, artefact.load(run)).outputs(images, "a test")
    powers = np.exp(logits.astype(float))
    return powers / powers.sum(axis=1, keepdims=True), embedding


def test_drawings_are_drawn_as_in_training_and_predicted(make_data, make_run, predict, lines, tmp_path):
    data = make_data(classes=6)
    run = make_run(data, data_options={"line_width": 1.5, "margin": 2.0, "ink": "black"})
    out = tmp_path / "out.jsonl"
    code, said, err = predict("--run", run, "--input", lines, "--top", 4, "--output", out, "--json")
    assert code == 0, err
    result = json.loads(said)
    assert (result["predicted"], result["refused"], result["output"]) == (7, {}, str(out))
    images = Rasteriser(16, 16, 1.5, 2.0, "black").draw([strokes.pack(drawing) for drawing in DRAWINGS])[..., None]
    shares, _ = _expected(run, images)
    found = _jsonl(out)
    assert [entry["key"] for entry in found] == [str(100 + number) for number in range(7)]
    for entry, row in zip(found, shares, strict=True):
        best = np.argsort(-row)[:4]
        assert entry["labels"] == [f"class {label}" for label in best]
        assert entry["probabilities"] == pytest.approx(row[best], abs=1e-6)
    table = tmp_path / "out.csv"
    assert predict("--run", run, "--input", lines, "--top", 4, "--output", table)[0] == 0
    for row, entry in zip(_csv(table), found, strict=True):
        assert row["input"] == entry["input"] == "drawn.ndjson"
        assert [row[f"label{number}"] for number in range(1, 5)] == entry["labels"]
        assert [float(row[f"p{number}"]) for number in range(1, 5)] == entry["probabilities"]


def test_flip_takes_the_mean_over_an_input_and_its_mirror_image(make_data, make_run, predict, lines, tmp_path):
    run, out = make_run(make_data()), tmp_path / "out.jsonl"
    assert predict("--run", run, "--input", lines, "--flip", "--output", out)[0] == 0
    images = Rasteriser(16, 16).draw([strokes.pack(drawing) for drawing in DRAWINGS])[..., None]
    net = model.load(run, artefact.load(run))
    logits = np.mean([net.outputs(each, "a test")[0] for each in (images, images[:, :, ::-1])], axis=0)
    assert [entry["labels"][0] for entry in _jsonl(out)] == [f"class {label}" for label in logits.argmax(axis=1)]
    assert _jsonl(out)[0]["probabilities"][0] == pytest.approx(
        max(np.exp(logits[0]) / np.exp(logits[0]).sum()), abs=1e-6
    )


def test_the_batch_size_and_the_packing_change_nothing(make_data, make_run, predict, lines, tmp_path):
    run = make_run(make_data())
    packed = tmp_path / "more" / "drawn.ndjson.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    results = []
    for source, size in ((lines, 1), (lines, 5), (packed.parent, 256)):
        out = tmp_path / f"{size}.csv"
        assert predict("--run", run, "--input", source, "--batch-size", size, "--output", out)[0] == 0
        results.append(out.read_text().replace(".gz", ""))
    assert results[0] == results[1] == results[2]


def test_the_nearest_drawings_are_those_of_all_distances(make_data, make_run, predict, lines, tmp_path):
    data = make_data(classes=5, train=4, validation=2, test=2)
    run = make_run(data)
    out = tmp_path / "out.jsonl"
    words = ("--run", run, "--input", lines, "--neighbours", 3, "--output", out, "--batch-size", 4)
    assert predict(*words, "--data", data)[0] == 0
    splits = [dataset.load(data).split(name) for name in ("train", "validation", "test")]
    keys = [key.decode() for split in splits for key in split.keys(range(len(split)))]
    labels = np.concatenate([split.labels for split in splits])
    _, there = _expected(run, np.concatenate([split.images(np.arange(len(split))) for split in splits]))
    _, asked = _expected(run, Rasteriser(16, 16).draw([strokes.pack(drawing) for drawing in DRAWINGS])[..., None])
    for query, entry in zip(asked, _jsonl(out), strict=True):
        distances = np.sqrt(((there.astype(float) - query) ** 2).sum(axis=1))
        order = np.argsort(distances, kind="stable")[:3]
        assert [near["key"] for near in entry["neighbours"]] == [keys[at] for at in order]
        assert [near["class"] for near in entry["neighbours"]] == [f"class {label}" for label in labels[order]]
        assert [near["distance"] for near in entry["neighbours"]] == pytest.approx(distances[order], rel=1e-5)
    table = tmp_path / "out.csv"
    assert predict(*words[:-4], "--output", table, "--data", data)[0] == 0
    assert _csv(table)[0]["neighbour3_key"] == _jsonl(out)[0]["neighbours"][2]["key"]
    assert predict(*words)[0] == 2


@pytest.mark.parametrize("name", ["a.png", "b.jpg", "c.gif", "d.bmp"])
@pytest.mark.parametrize("ink", ["white", "black"])
def test_pictures_are_laid_as_the_net_was_trained(make_data, make_run, predict, tmp_path, name, ink):  # noqa: PLR0913, PLR0917
    run = make_run(make_data(), data_options={"line_width": 2.0, "margin": 1.0, "ink": ink})
    page = np.full((64, 64), 255, np.uint8)
    page[8:16, 8:56] = page[40:48, 8:24] = 0  # Blocks of 4 x 4: each becomes a pixel.
    folder, out = tmp_path / "pictures", tmp_path / "pictures" / "out.jsonl"
    folder.mkdir()
    Image.fromarray(page).convert("RGB" if name == "b.jpg" else "L").save(folder / name, quality=95)
    (folder / "Thumbs.db").write_bytes(b"left by Windows")
    for _ in range(2):  # The second time, the output of the first one lies there too.
        assert predict("--run", run, "--input", folder, "--top", 3, "--output", out)[0] == 0
        (entry,) = _jsonl(out)
        small = page[2::4, 2::4, None]
        shares, _ = _expected(run, (255 - small if ink == "white" else small)[None])
        assert (entry["input"], entry["key"]) == (name, "")
        assert entry["probabilities"] == pytest.approx(sorted(shares[0], reverse=True), abs=0.01)


def test_names_of_classes_are_text_in_a_csv_file(make_data, make_run, predict, lines, tmp_path):
    names = ['=cmd|"/c calc"!A1', "\t=a\nb, ü\x1b[31m", "@x"]
    run, out = make_run(make_data(), classes=names), tmp_path / "out.csv"
    assert predict("--run", run, "--input", lines, "--output", out, "--columns", "label1, label2,label3")[0] == 0
    rows = _csv(out)
    assert list(rows[0]) == ["label1", "label2", "label3"]
    assert all(
        set(row.values()) == {f"'{names[0]}", "\\t=a\\nb, ü\N{REPLACEMENT CHARACTER}[31m", f"'{names[2]}"}
        for row in rows
    )
    out = tmp_path / "out.jsonl"
    assert predict("--run", run, "--input", lines, "--output", out)[0] == 0
    assert all(set(entry["labels"]) == set(names) for entry in _jsonl(out))


def test_bad_inputs_are_listed_and_the_others_predicted(make_data, make_run, predict, lines, tmp_path):
    run, out = make_run(make_data()), tmp_path / "found" / "out.jsonl"
    lines.write_bytes(lines.read_bytes() + b'{"drawing": []}\n{"drawing": [[[1, 2], [3]]]}\nnothing\n')
    (tmp_path / "broken.png").write_bytes(b"no picture")
    where = tmp_path / "[bd]r*"
    code, said, err = predict("--run", run, "--input", where, "--output", out, "--json")
    assert code == 65
    assert "4 of 11 inputs are bad, more than predict.max_refused = 0.01 allows" in err
    assert "Traceback" not in err
    assert json.loads(said)["predicted"] == len(_jsonl(out)) == 7
    refused = _jsonl(out.with_name("out.refused.jsonl"))
    assert [(entry["file"].rpartition("/")[2], entry["line"]) for entry in refused] == [
        ("broken.png", 1),
        ("drawn.ndjson", 8),
        ("drawn.ndjson", 9),
        ("drawn.ndjson", 10),
    ]
    assert [entry["reason"] for entry in refused][1:] == ["no_strokes", "uneven_stroke", "broken_json"]
    assert predict("--run", run, "--input", where, "--output", out, "--max-refused", "0.4")[0] == 0
    code, said, err = predict("--run", run, "--input", where)
    assert (code, "warning: " in err, said.count("drawn.ndjson")) == (65, True, 7)


def test_a_name_that_is_no_unicode_is_escaped(make_data, make_run, predict, tmp_path):
    run, folder = make_run(make_data()), tmp_path / "in"
    folder.mkdir()
    for name in (os.fsdecode(b"\xfe.ndjson"), "=1.ndjson"):
        (folder / name).write_bytes(_line(1, DRAWINGS[0]) + b"nothing\n")
    for ending, names in ((".csv", ["'=1.ndjson", "\\udcfe.ndjson"]), (".jsonl", ["=1.ndjson", "\udcfe.ndjson"])):
        out = tmp_path / f"out{ending}"
        assert predict("--run", run, "--input", folder, "--output", out)[0] == 65
        assert [row["input"] for row in (_csv if ending == ".csv" else _jsonl)(out)] == names
    assert len(_jsonl(tmp_path / "out.refused.jsonl")) == 2
    assert "\\udcfe.ndjson" in predict("--run", run, "--input", folder)[1]


def test_an_older_artefact_takes_the_options_of_its_data_set(make_data, make_run, predict, lines, tmp_path):
    data = make_data(options={"line_width": 2.0, "margin": 1.0, "ink": "white"})
    run, other = make_run(data, data_options={}), make_data(train=2, name="other")
    out = tmp_path / "out.csv"
    words = ("--run", run, "--input", lines, "--output", out)
    for more in ((), ("--data", other)):
        code, _, err = predict(*words, *more)
        assert (code, "give the data set of the training with --data" in err) == (65, True), err
    assert not out.exists()
    assert predict(*words, "--data", data)[0] == 0
    assert len(_csv(out)) == 7


def test_a_net_that_has_diverged_leaves_no_file(make_data, make_run, predict, lines, tmp_path):
    out = tmp_path / "out" / "out.csv"
    code, _, err = predict("--run", make_run(make_data(), fault=np.nan), "--input", lines, "--output", out)
    assert (code, "the net has diverged" in err) == (65, True), err
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--output", "OUT.txt"), "ends in none of .csv, .jsonl"),
        (
            ("--output", "OUT.csv", "--columns", "input,label9"),
            "predict.columns: 'label9' is unknown; choose among input",
        ),
        (("--columns", "input"), "are of a CSV file"),
        (("--neighbours", "2"), "give its folder with --data"),
        (("--input", "EMPTY"), "no picture and no .ndjson"),
        (("--output", "EMPTY.csv"), "Is a directory"),
    ],
)
def test_settings_that_cannot_be_are_refused(make_data, make_run, predict, lines, tmp_path, words, said):  # noqa: PLR0913, PLR0917
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "EMPTY.csv").mkdir()
    words = [str(tmp_path / word) if word[:3] in {"OUT", "EMP"} else word for word in words]
    code, out, err = predict("--run", make_run(make_data()), "--input", lines, *words)
    assert (code, out, said in err) == (2, "", True), err


def test_object_storage(make_data, make_run, predict, lines, emulator):
    data = make_data()
    for local in (data, make_run(data)):
        for entry in storage.list_files(local):
            there = f"{emulator.bucket}/{entry.url.removeprefix(storage.parent(local)).lstrip('/')}"
            storage.write_bytes(there, storage.read_bytes(entry.url))
    storage.write_bytes(f"{emulator.bucket}/in/drawn.ndjson", lines.read_bytes())
    out = f"{emulator.bucket}/out/found.jsonl"
    words = (
        "--run",
        f"{emulator.bucket}/run",
        "--data",
        f"{emulator.bucket}/data",
        "--cache-dir",
        lines.parent / "cache",
    )
    code, _, err = predict(*words, "--input", f"{emulator.bucket}/in", "--neighbours", 1, "--output", out)
    assert code == 0, err
    assert len(storage.read_bytes(out).splitlines()) == 7
    assert storage.read_bytes(out.replace("found", "found.refused")) == b""
