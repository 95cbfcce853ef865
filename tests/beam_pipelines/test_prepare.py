"""`boceto prepare` as people run it: whole jobs over small inputs, on both runners."""

import csv
import errno
import gzip
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines import columns, prepare
from beam_pipelines.__main__ import main
from beam_pipelines.settings import Settings
from beam_pipelines.sources import synthetic
from boceto import contract, dataset, lease, storage, strokes

CLASSES = ("circle", "star", "sun")
PER_CLASS = 30


def _line(category: str, number: int, ink_of: str | None = None) -> bytes:
    drawing = [stroke.T.tolist() for stroke in strokes.unpack(synthetic.draw(5, ink_of or category, number))]
    entry = {"word": category, "drawing": drawing}
    if number % 3:  # As in the real files, some drawings have no key.
        entry["key_id"] = str(10**15 + zlib.crc32(f"{category}/{number}/{ink_of}".encode()))
    return json.dumps(entry).encode() + b"\n"


@pytest.fixture
def strokes_folder(tmp_path) -> Path:
    """Three categories of 30 drawings; one ink twice in a category, and one in two categories."""
    folder = tmp_path / "strokes"
    folder.mkdir()
    for category in CLASSES:
        lines = [_line(category, number) for number in range(PER_CLASS)]
        if category == "sun":
            lines += [_line("sun", 0), _line("sun", 1, "star")]
        (folder / f"{category}.ndjson.gz").write_bytes(gzip.compress(b"".join(lines)))
    return folder


def _prepare(source, output, *flags):
    words = ["--input", source, "--output", output, "--size", 32, "--train-per-class", 20, "--test-per-class", 5]
    return main([str(word) for word in [*words, "--records-per-shard", 16, "--workers", 1, *flags]])


def _prepare_apart(*words):
    """The same in a process of its own, as it must be where workers are forked."""
    script = "import test_prepare as t, sys; sys.exit(t._prepare(*sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )


def _shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*-of-*"))}


def _resplit(source: Path, target: Path) -> Path:
    """The same drawings in other files: each category in three, in reverse order, one in a folder, one as CSV."""
    (target / "more").mkdir(parents=True)
    for path in source.iterdir():
        lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)[::-1]
        category = path.name.removesuffix(".ndjson.gz")
        with (target / f"{category}-00000-of-00002.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("key_id", "word", "drawing"))
            for entry in map(json.loads, lines[:7]):
                rows.writerow((entry.get("key_id", ""), entry["word"], json.dumps(entry["drawing"])))
        (target / f"{category}-00001-of-00002.ndjson.gz").write_bytes(gzip.compress(b"".join(lines[7:11])))
        (target / "more" / f"{category}.ndjson").write_bytes(b"".join(lines[11:]))
    return target


def test_the_same_bytes_whatever_the_workers_and_the_files(strokes_folder, tmp_path):
    assert _prepare(strokes_folder, tmp_path / "one") == 0
    expected = _shards(tmp_path / "one")
    assert len(expected) == 10  # 60 training drawings in 4 shards of 16, 15 test drawings in one.
    manifest = (tmp_path / "one" / "dataset.json").read_bytes()
    for workers in (2, 8):
        done = _prepare_apart(strokes_folder, tmp_path / str(workers), "--workers", workers)
        assert done.returncode == 0, done.stderr
        assert _shards(tmp_path / str(workers)) == expected
        assert (tmp_path / str(workers) / "dataset.json").read_bytes() == manifest
    other = _resplit(strokes_folder, tmp_path / "other")
    assert _prepare(other, tmp_path / "two") == 0
    assert _shards(tmp_path / "two") == expected


def test_the_same_bytes_where_a_worker_may_hold_little(strokes_folder, tmp_path, monkeypatch):
    assert _prepare(strokes_folder, tmp_path / "one") == 0
    monkeypatch.setattr("beam_pipelines.pipeline.HELD", 0)  # Every class becomes a file of its own.
    assert _prepare(strokes_folder, tmp_path / "many") == 0
    assert _shards(tmp_path / "many") == _shards(tmp_path / "one")


@pytest.mark.parametrize(
    "name",
    ["train-00000-of-00007.tfrecord", "test-00000-of-00001.index", "preview.png", "_work/thesis.tex", "dataset.json"],
)
def test_files_that_boceto_did_not_make_stay(strokes_folder, tmp_path, capsys, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"name": "mine"}')
    assert _prepare(strokes_folder, tmp_path / "out", "--overwrite") == 2
    assert f"holds {name}, and nothing says that Boceto made it; give another folder" in capsys.readouterr().err
    assert path.read_text() == '{"name": "mine"}'


@pytest.fixture
def job_service(tmp_path):
    """Beam's own portable job service and a worker pool, in a process of their own: (job endpoint, pool address)."""
    script = tmp_path / "service.py"
    script.write_text(
        "import sys, time\n"
        "from apache_beam.runners.portability.local_job_service import LocalJobServicer\n"
        "from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer\n"
        "jobs = LocalJobServicer()\n"
        "pool, _ = BeamFnExternalWorkerPoolServicer.start()\n"
        "print(jobs.start_grpc_server(0), pool.rpartition(':')[2], flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as service:
        jobs, pool = service.stdout.readline().split()
        yield f"localhost:{jobs}", f"localhost:{pool}"
        service.kill()


def test_the_same_bytes_over_beams_portable_protocol(strokes_folder, tmp_path, job_service):
    jobs, pool = job_service
    assert _prepare(strokes_folder, tmp_path / "direct") == 0
    environments = {"loopback": ["LOOPBACK"], "external": ["EXTERNAL", f"--environment_config={pool}"]}
    for name, (kind, *config) in environments.items():
        beam = ["--", f"--job_endpoint={jobs}", f"--environment_type={kind}", *config]
        assert _prepare(strokes_folder, tmp_path / name, "--runner", "PortableRunner", *beam) == 0
        assert _shards(tmp_path / name) == _shards(tmp_path / "direct")


def test_the_records_are_what_was_drawn(strokes_folder, tmp_path, capsys):
    assert _prepare(strokes_folder, tmp_path / "data", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    data = dataset.load(str(tmp_path / "data"))
    manifest = data.manifest
    assert manifest.classes == list(CLASSES)
    assert manifest.splits["train"].per_class == [20, 20, 20]
    assert manifest.splits["test"].per_class == [5, 5, 5]
    assert result["digest"] == manifest.digest
    inks = []
    for name in ("train", "test"):
        split = data.split(name)
        images = split.images(np.arange(len(split)))
        assert images.shape[1:] == (32, 32, 1)
        assert (images.max(axis=(1, 2, 3)) == 255).all()
        inks += [split.strokes(number) for number in range(len(split))]
    assert len(set(inks)) == len(inks) == 75
    assert (tmp_path / "data" / "preview.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "data" / "_work").exists()


def test_ink_that_occurs_twice_is_taken_once_and_told(strokes_folder, tmp_path):
    # 30 different drawings a class, but one ink belongs to the stars and the suns: one of them has 29 or 30 to take.
    flags = ["--train-per-class", 25, "--allow-fewer"]
    assert _prepare(strokes_folder, tmp_path / "data", *flags) == 0
    data = dataset.load(str(tmp_path / "data"))
    inks = [
        data.split(name).strokes(n) for name in ("train", "test") for n in range(data.manifest.splits[name].records)
    ]
    assert len(set(inks)) == len(inks)
    assert data.manifest.duplicates == {"ink": 2, "key": 0, "picture": 0}


def _everything(folder):
    data = dataset.load(str(folder))
    splits = [data.split(name) for name, info in data.manifest.splits.items() if info.records]
    keys = [row for split in splits for row in zip(split.labels, split.keys(range(len(split))), strict=True)]
    inks = [split.strokes(number) for split in splits for number in range(len(split))]
    pictures = [image.tobytes() for split in splits for image in split.images(np.arange(len(split)))]
    return data.manifest, keys, inks, pictures


def test_no_two_records_share_a_key_an_ink_or_a_picture(tmp_path):
    folder = tmp_path / "strokes"
    folder.mkdir()
    # Twenty drawings; the same keys with another ink; the last point drawn twice (one picture); keys of another class.
    cats, dogs = [], []
    for number in range(20):
        drawing = [stroke.T.tolist() for stroke in strokes.unpack(synthetic.draw(5, "star", number))]
        again = [[[*xs, xs[-1]], [*ys, ys[-1]]] for xs, ys in drawing]
        other = [stroke.T.tolist() for stroke in strokes.unpack(synthetic.draw(5, "sun", number))]
        house = [stroke.T.tolist() for stroke in strokes.unpack(synthetic.draw(5, "house", number))]
        cats += [
            {"word": "cat", "drawing": drawing, "key_id": f"{number}"},
            {"word": "cat", "drawing": other, "key_id": f"{number}"},
            {"word": "cat", "drawing": again},
        ]
        dogs.append({"word": "dog", "drawing": house, "key_id": f"{number}"})
    for name, lines in (("cat", cats), ("dog", dogs)):
        (folder / f"{name}.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ["--train-per-class", 60, "--validation-per-class", 4, "--allow-fewer", "--no-preview"]
    assert _prepare(folder, tmp_path / "data", *flags) == 0
    manifest, *shared = _everything(tmp_path / "data")
    for values in shared:
        assert len(set(values)) == len(values)
    assert manifest.drawings == len(shared[0]) + sum(manifest.duplicates.values())
    assert manifest.duplicates["key"] == 20
    assert manifest.splits["train"].per_class[1] + manifest.splits["validation"].per_class[1] > 10  # The dogs.
    assert manifest.duplicates["picture"] > 0
    reverse = tmp_path / "reverse"
    reverse.mkdir()
    (reverse / "cat-2.ndjson").write_text("".join(json.dumps(line) + "\n" for line in cats[::-2]))
    (reverse / "cat-1.ndjson").write_text("".join(json.dumps(line) + "\n" for line in cats[-2::-2]))
    shutil.copy(folder / "dog.ndjson", reverse / "dog.ndjson")
    assert _prepare(reverse, tmp_path / "other", *flags) == 0
    assert _shards(tmp_path / "other") == _shards(tmp_path / "data")


def test_what_stands_in_a_work_file_is_never_run(strokes_folder, tmp_path, monkeypatch, capsys):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was run"),)

    for data in (pickle.dumps(Hostile()), b"", b"\1{}"):
        with monkeypatch.context() as patch:
            patch.setattr(columns, "pack", lambda *_, data=data: data)
            assert _prepare(strokes_folder, tmp_path / "data") == 65
        assert re.search(r"strokes-\w+-\w+ is damaged: .*; run the same command again", capsys.readouterr().err)
    assert not (tmp_path / "was run").exists()


def test_a_damaged_file_between_deal_and_write_is_told_in_words(strokes_folder, tmp_path, monkeypatch, capsys):
    pack = columns.pack

    def harmed(rows, schema):
        packed = bytearray(pack(rows, schema))
        packed[-9] ^= "label" in schema.names
        return bytes(packed)

    monkeypatch.setattr(columns, "pack", harmed)
    assert _prepare(strokes_folder, tmp_path / "data") == 65
    error = capsys.readouterr().err
    assert re.search(r"/_work/strokes-\w+-\w+ is damaged: its checksum is wrong; run the same command again", error)
    assert "Traceback" not in error


def test_the_test_drawings_stay_when_training_takes_more(strokes_folder, tmp_path):
    for name, count in (("small", 10), ("large", 20)):
        assert _prepare(strokes_folder, tmp_path / name, "--train-per-class", count, "--no-preview") == 0
    small, large = ({name: data for name, data in _shards(tmp_path / folder).items() if name.startswith("test")}
                    for folder in ("small", "large"))  # fmt: skip
    assert small == large


def test_tensorflow_reads_the_records(strokes_folder, tmp_path):
    assert _prepare(strokes_folder, tmp_path / "data") == 0
    split = dataset.load(str(tmp_path / "data")).split("train")
    paths = sorted(str(path) for path in (tmp_path / "data").glob("train-*.tfrecord"))
    for number, record in enumerate(tf.data.TFRecordDataset(paths).as_numpy_iterator()):
        features = tf.train.Example.FromString(record).features.feature
        assert sorted(features) == sorted(
            [
                f"image/{name}"
                for name in ("channels", "class/label", "class/text", "encoded", "format", "height", "key", "width")
            ]
            + ["sketch/strokes"]
        )
        label = features["image/class/label"].int64_list.value[0]
        assert features["image/class/text"].bytes_list.value[0].decode() == CLASSES[label]
        pixels = tf.io.decode_png(features["image/encoded"].bytes_list.value[0]).numpy()
        assert label == split.labels[number]
        assert (pixels == split.images(np.array([number]))[0]).all()
    assert number == 59


def test_bad_lines_are_told_and_do_not_stop_the_job(strokes_folder, tmp_path):
    with (strokes_folder / "sun-1.ndjson").open("wb") as file:
        file.write(b'{"word": "sun", "drawing": []}\n' + b"\xff\n" + _line("sun", 100))
    assert _prepare(strokes_folder, tmp_path / "data", "--max-refused", 0.03) == 0
    lines = [json.loads(line) for line in (tmp_path / "data" / "refused.jsonl").read_text().splitlines()]
    assert [(line["file"], line["line"], line["reason"]) for line in lines] == [
        ("sun-1.ndjson", 1, "no_strokes"),
        ("sun-1.ndjson", 2, "not_utf8"),
    ]
    assert dataset.load(str(tmp_path / "data")).manifest.refused == {"no_strokes": 1, "not_utf8": 1}


def test_packed_input_in_object_storage_is_as_on_this_machine_whole_or_not(strokes_folder, tmp_path, emulator, capsys):
    assert _prepare(strokes_folder, tmp_path / "data") == 0
    there = f"{emulator.bucket}/in"
    whole = {path.name: path.read_bytes() for path in strokes_folder.iterdir()}
    for name, data in whole.items():
        storage.write_bytes(f"{there}/{name}", data)
    assert _prepare(there, f"{emulator.bucket}/data") == 0
    for name, data in _shards(tmp_path / "data").items():
        assert storage.read_bytes(f"{emulator.bucket}/data/{name}") == data
    star, sun = bytearray(whole["star.ndjson.gz"]), whole["sun.ndjson.gz"]
    star[len(star) // 2] ^= 4
    storage.write_bytes(f"{there}/star.ndjson.gz", whole["star.ndjson.gz"] + star)
    storage.write_bytes(f"{there}/sun-1.ndjson.gz", sun[: len(sun) // 2])
    capsys.readouterr()
    assert _prepare(there, f"{emulator.bucket}/more") == 65
    told = re.search(r"with --max-refused (0\.\d+)", capsys.readouterr().err)
    assert 0.1 < float(told[1]) < 0.5
    assert _prepare(there, f"{emulator.bucket}/more", "--max-refused", told[1]) == 0
    refused = dataset.load(f"{emulator.bucket}/more").manifest.refused
    assert sorted(refused) == ["damaged_file", "truncated_file"]
    assert min(refused.values()) > 5


def test_too_many_bad_lines_fail_the_job_and_a_rerun_starts_clean(strokes_folder, tmp_path):
    bad = strokes_folder / "sun-1.ndjson"
    bad.write_bytes(b"{\n" * 3)
    for workers in (1, 2):
        failed = _prepare_apart(strokes_folder, tmp_path / "data", "--workers", workers)
        assert failed.returncode == 65
        assert "3 of 95 drawings are bad" in failed.stderr
        assert "Traceback" not in failed.stderr
        assert not (tmp_path / "data" / "dataset.json").exists()
        assert not list((tmp_path / "data").glob("*.tfrecord"))
    bad.unlink()
    (tmp_path / "data" / "notes.txt").write_text("mine")
    (tmp_path / "data" / "train-00000-of-00009.tfrecord").write_bytes(b"left by a killed job")
    assert _prepare(strokes_folder, tmp_path / "data") == 0
    assert (tmp_path / "data" / "notes.txt").read_text() == "mine"
    assert len(_shards(tmp_path / "data")) == 10


def test_a_category_with_too_few_is_named_with_what_would_do(strokes_folder, tmp_path, capsys):
    shutil.copy(strokes_folder / "star.ndjson.gz", tmp_path / "keep")
    (strokes_folder / "star.ndjson.gz").write_bytes(gzip.compress(b"".join(_line("star", n) for n in range(12))))
    assert _prepare(strokes_folder, tmp_path / "data") == 65
    message = capsys.readouterr().err
    advice = re.search(
        r"category 'star' has (\d+) different drawings, 25 are wanted; use --train-per-class (\d+)", message
    )
    assert int(advice[2]) == int(advice[1]) - 5
    assert _prepare(strokes_folder, tmp_path / "data", "--train-per-class", advice[2]) == 0
    assert _prepare(strokes_folder, tmp_path / "fewer", "--allow-fewer") == 0
    manifest = dataset.load(str(tmp_path / "fewer")).manifest
    assert manifest.short == {"star": int(advice[1])}
    assert manifest.splits["train"].per_class == [20, int(advice[2]), 20]


def test_a_finished_data_set_is_not_overwritten_unasked(strokes_folder, tmp_path, capsys):
    assert _prepare(strokes_folder, tmp_path / "data") == 0
    before = _shards(tmp_path / "data")
    assert _prepare(strokes_folder, tmp_path / "data") == 0
    assert "holds this data set already" in capsys.readouterr().err
    assert _prepare(strokes_folder, tmp_path / "data", "--seed", 1) == 2
    assert "prepare.seed = 0, not 1" in capsys.readouterr().err
    assert _shards(tmp_path / "data") == before
    assert _prepare(strokes_folder, tmp_path / "data", "--seed", 1, "--overwrite") == 0
    assert _shards(tmp_path / "data") != before


def test_an_option_that_is_younger_than_the_data_set_counts_as_its_default(strokes_folder, tmp_path, capsys):
    flags = ["--no-preview", "--size", 128, "--records-per-shard", 8192]
    assert _prepare(strokes_folder, tmp_path / "data", *flags) == 0
    path = tmp_path / "data" / "dataset.json"
    entry = contract.decode(path.read_bytes())
    by_default = Settings("").content_options()
    young = [name for name, value in entry["options"].items() if value == by_default[name]]
    assert {"channels", "height", "width", "margin", "allow_fewer"} <= set(young)
    for name in young:
        del (options := dict(entry["options"]))[name]
        path.write_bytes(contract.sealed(entry | {"options": options}))
        before = path.read_bytes()
        assert _prepare(strokes_folder, tmp_path / "data", *flags) == 0
        assert "holds this data set already" in capsys.readouterr().err
        assert path.read_bytes() == before
    del (options := dict(entry["options"]))["margin"]
    path.write_bytes(contract.sealed(entry | {"options": options}))
    assert _prepare(strokes_folder, tmp_path / "data", *flags, "--margin", 2) == 2
    assert "prepare.margin = 1.0, not 2.0" in capsys.readouterr().err


def test_a_data_set_of_another_shape_is_another(strokes_folder, tmp_path, capsys):
    assert _prepare(strokes_folder, tmp_path / "data", "--no-preview") == 0
    assert _prepare(strokes_folder, tmp_path / "data", "--height", 32, "--width", 32) == 0
    assert "holds this data set already" in capsys.readouterr().err
    assert _prepare(strokes_folder, tmp_path / "data", "--width", 40) == 2
    assert "prepare.width = 32, not 40" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--source", "drawings"], "prepare.source = 'drawings' is unknown; choose one of "),
        (["--input", "/does/not/exist"], "no .ndjson, .ndjson.gz, .csv, .csv.gz, .npz or .bin file of drawings there"),
        (["--size", "4"], "prepare.size = 4 is too small; use at least 8"),
        (["--size", "many"], "prepare.size = 'many' is not a whole number"),
        (["--ink", "red"], "choose one of white, black"),
        (["--output", "s3://bucket/data"], "unknown scheme 's3'"),
        (["--output", "memory://data"], "ends with this process"),
        (["--output", "/dev/null/data"], "prepare.output = /dev/null/data cannot be written"),
        (["--runner", "Nope"], "prepare.runner = 'Nope' or its options are wrong"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(strokes_folder, tmp_path, capsys, flags, message):
    assert _prepare(strokes_folder, tmp_path / "data", *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list((tmp_path / "data").glob("*.tfrecord"))


@pytest.mark.parametrize("name", ["test-00000-of-00001.tfrecord", "test-00000-of-00001.index"])
def test_a_damaged_finished_data_set_is_told_and_made_again_when_asked(strokes_folder, tmp_path, capsys, name):
    assert _prepare(strokes_folder, tmp_path / "data") == 0
    before = _shards(tmp_path / "data")
    (tmp_path / "data" / name).write_bytes(b"torn")
    assert _prepare(strokes_folder, tmp_path / "data") == 65
    assert f"{name} is missing or damaged" in capsys.readouterr().err
    assert _prepare(strokes_folder, tmp_path / "data", "--overwrite") == 0
    assert _shards(tmp_path / "data") == before


def test_other_input_of_the_same_name_is_no_finished_data_set(strokes_folder, tmp_path, capsys):
    assert _prepare(strokes_folder, tmp_path / "data") == 0
    (strokes_folder / "sun-9.ndjson").write_bytes(_line("sun", 99))
    assert _prepare(strokes_folder, tmp_path / "data") == 2
    assert "other prepare.input" in capsys.readouterr().err


def test_a_file_changed_within_its_size_is_noticed_and_a_touched_one_is_the_same(strokes_folder, tmp_path, capsys):
    assert _prepare(strokes_folder, tmp_path / "data") == 0
    file = strokes_folder / "sun.ndjson.gz"
    os.utime(file, (1, 1))
    assert _prepare(strokes_folder, tmp_path / "data") == 0
    was = file.read_bytes()
    file.write_bytes(was[:4] + b"\1" + was[5:])  # The time in the header: the size, and what it holds, stay the same.
    assert _prepare(strokes_folder, tmp_path / "data") == 2
    assert f"another {file.name}: the file was changed since, though its size is the same" in capsys.readouterr().err
    assert _prepare(strokes_folder, tmp_path / "data", "--overwrite") == 0


def test_a_folder_that_another_job_writes_is_left_alone(strokes_folder, tmp_path, capsys):
    work = tmp_path / "data" / "_work"
    work.mkdir(parents=True)
    process = os.getppid()
    owner = {"token": "other", "process": process, "machine": lease.machine(), "begun": lease.begun(process)}
    (work / "owner.json").write_text(json.dumps(owner))
    assert _prepare(strokes_folder, tmp_path / "data") == 2
    assert f"being written by process {process}, says _work/owner.json there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "other", [{"begun": "1"}, {"machine": "of before the reboot"}, {"process": 2**22 + 1}, {"process": None}]
)
def test_a_number_that_a_later_process_has_keeps_no_folder(strokes_folder, tmp_path, other):
    work = tmp_path / "data" / "_work"
    work.mkdir(parents=True)
    process = os.getppid()
    owner = {
        "process": process,
        "host": socket.gethostname(),
        "machine": lease.machine(),
        "begun": lease.begun(process),
    }
    (work / "owner.json").write_text(json.dumps({"token": "other", **owner, **other}))
    assert _prepare(strokes_folder, tmp_path / "data", "--no-preview") == 0


@pytest.mark.parametrize("shape", [(8, 1024), (1024, 8)])
def test_very_long_images_have_a_preview(tmp_path, shape):
    sizes = ["--height", shape[0], "--width", shape[1], "--classes", 2, "--train-per-class", 4, "--test-per-class", 2]
    words = ["--source", "synthetic", "--output", tmp_path / "data", "--workers", 1, *sizes]
    assert main([str(word) for word in words]) == 0
    assert (tmp_path / "data" / "preview.png").exists()


def test_a_preview_that_fails_costs_a_warning(strokes_folder, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("no font")

    monkeypatch.setattr(prepare, "draw_preview", fail)
    for _ in range(2):
        assert _prepare(strokes_folder, tmp_path / "data") == 0
        assert "warning: preview.png cannot be drawn: no font" in capsys.readouterr().err
    monkeypatch.undo()
    assert _prepare(strokes_folder, tmp_path / "data") == 0
    assert (tmp_path / "data" / "preview.png").exists()


@pytest.fixture
def running(tmp_path):
    """A job of many drawings with two workers, once its first files are read: (process, its workers, its folder)."""
    folder = tmp_path / "data"
    words = ["prepare", "--source", "synthetic", "--output", folder, "--train-per-class", 4000, "--workers", 2]
    command = [sys.executable, "-m", "boceto", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(folder.glob("_work/read-*.json")):
            assert process.poll() is None
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield process, [int(child) for child in children], folder
        process.kill()


@pytest.mark.parametrize("request_to_stop", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_ends_all_of_it_in_one_line(running, request_to_stop):
    process, workers, folder = running
    process.send_signal(request_to_stop)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 75
    lines = [line for line in error.splitlines() if not re.match(r"preparing |\d", line)]  # Progress.
    assert lines == ["boceto prepare: stopped; run the same command again"]
    assert not (folder / "dataset.json").exists()
    assert not [worker for worker in workers if Path(f"/proc/{worker}/cmdline").exists()]


def test_a_worker_that_is_killed_ends_the_job_in_one_line(running):
    process, workers, folder = running
    os.kill(workers[0], signal.SIGKILL)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert len(error.splitlines()) == 2
    assert "a worker process ended with -9" in error
    assert not (folder / "dataset.json").exists()


def test_a_worker_that_is_short_of_memory_says_so():
    said = "Traceback …\nnumpy._core._exceptions._ArrayMemoryError: Unable to allocate 3 GiB [while running 'draw']"
    with pytest.raises(MemoryError, match="^Unable to allocate 3 GiB$"):
        prepare._raise_cause(RuntimeError(said), "data")


@pytest.mark.parametrize("kind", [IsADirectoryError, FileNotFoundError, ConnectionResetError, OSError])
def test_an_error_of_the_system_stays_one_whatever_its_class(kind):
    number = {IsADirectoryError: errno.EISDIR, FileNotFoundError: errno.ENOENT, ConnectionResetError: errno.ECONNRESET}
    error = OSError(number.get(kind, errno.EIO), "it says so", "a/b")
    said = f"Traceback …\n{kind.__name__}: {error} [while running 'Write']"
    with pytest.raises(kind) as raised:
        prepare._raise_cause(RuntimeError(said), "data")
    assert (str(raised.value), raised.value.errno) == (str(error), error.errno)


@pytest.mark.parametrize("name", ["train-00000-of-00004.index", "test-00000-of-00001.tfrecord", "refused.jsonl"])
def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_goes(strokes_folder, tmp_path, capsys, name):
    assert _prepare(strokes_folder, tmp_path / "data", "--no-preview") == 0
    (tmp_path / "data" / name).unlink()
    (tmp_path / "data" / name).mkdir()
    before = sorted((tmp_path / "data").iterdir())
    assert _prepare(strokes_folder, tmp_path / "data", "--no-preview", "--overwrite") == 2
    assert f"holds a folder {name}, where the file of this name belongs; remove it" in capsys.readouterr().err
    assert sorted((tmp_path / "data").iterdir()) == before


def test_a_file_in_the_place_of_the_work_folder_is_refused(strokes_folder, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "_work").write_text("mine")
    assert _prepare(strokes_folder, tmp_path / "data") == 2
    assert "holds a file _work, where the folder of this name belongs; remove it" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--train-per-class", "--synthetic-drawings"])
def test_more_synthetic_drawings_than_can_be_planned_are_refused(tmp_path, capsys, flag):
    assert main(["--source", "synthetic", "--output", str(tmp_path / "data"), flag, str(10**12)]) == 2
    assert "drawings a class are too many; ask for at most 10,000,000" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_synthetic_drawings_need_no_input_and_are_a_function_of_their_seed(tmp_path):
    words = [
        "--source",
        "synthetic",
        "--classes",
        "4",
        "--size",
        "16",
        "--train-per-class",
        "6",
        "--test-per-class",
        "2",
    ]
    for name, more in (("a", []), ("b", []), ("c", ["--seed", "9", "--classes", "all"])):
        assert main([*words, "--output", str(tmp_path / name), "--workers", "1", *more]) == 0
    digests = [dataset.load(str(tmp_path / name)).manifest.digest for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    assert len(dataset.load(str(tmp_path / "c")).manifest.classes) >= 16
