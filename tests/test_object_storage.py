"""All programs over `gs://` URLs of an emulator, against the same work over folders."""

import json
import re

import pytest

from beam_pipelines.__main__ import main as prepare
from boceto import artefact, dataset, demo, storage
from eval_jobs.__main__ import main as evaluate
from trainer.__main__ import main as train

DATA = ["--source", "synthetic", "--classes", "3", "--size", "16", "--train-per-class", "12", "--test-per-class", "4"]
DATA += ["--records-per-shard", "10", "--workers", "1"]
NET = ["--net", "small", "--width-multiplier", "0.0625", "--embedding", "8", "--batch-size", "12"]
NET += ["--max-steps", "6", "--log-every", "2"]
SCORED = ("train_accuracy", "test_accuracy", "top5", "map", "parameters")


@pytest.fixture
def bucket(emulator):
    return emulator.bucket


@pytest.fixture
def chain(tmp_path, capsys):
    """Runs a verb with its folders below a URL: `chain(base, verb, *flags)` is (code, result, standard error)."""
    mains = {
        "prepare": (prepare, lambda base: ["--output", f"{base}/data", *DATA]),
        "train": (train, lambda base: ["--data", f"{base}/data", "--run", f"{base}/run", *NET]),
        "eval": (evaluate, lambda base: ["--data", f"{base}/data", "--run", f"{base}/run", "--bootstrap", "5"]),
    }

    def run(base, verb, *flags):
        main, words = mains[verb]
        cache = [] if verb == "prepare" else ["--cache-dir", str(tmp_path / "cache")]
        code = main([*words(base), *cache, "--json", *flags])
        out, err = capsys.readouterr()
        return code, json.loads(out.splitlines()[-1]) if out else None, err

    return run


def names(url):
    return sorted(storage.relative(entry.url, url) for entry in storage.list_files(url))


def _stable(run):
    """The files of a run, without the curves, and without what each run's writer makes its own."""
    return {re.sub(r"-[0-9a-f]{8}\.", "-.", name) for name in names(run) if not name.startswith("tensorboard/")}


def files(url):
    return {name: storage.read_bytes(storage.join(url, name)) for name in names(url)}


def one_line(done, code, *words):
    """Whether a program ended with this code and one line that has these words."""
    *_, said = done[2].splitlines()
    return done[0] == code and done[1] is None and "Traceback" not in done[2] and all(word in said for word in words)


def _versions(folder):
    """The version of each file, but for the list of a run's attempts, which grows."""
    urls = [entry.url for entry in storage.list_files(folder)]
    return {url: storage.stat(url).version for url in urls if not url.endswith("/attempts.jsonl")}


def test_the_whole_chain_is_the_same_by_changing_only_urls(chain, bucket, tmp_path):
    results = {}
    for base in (str(tmp_path / "here"), bucket):
        for verb in ("prepare", "train", "eval"):
            code, results[base, verb], err = chain(base, verb)
            assert code == 0, err
    (here, there) = (str(tmp_path / "here"), bucket)
    assert files(f"{here}/data") == files(f"{there}/data")
    assert results[here, "prepare"]["digest"] == results[there, "prepare"]["digest"]
    for name in SCORED:
        assert results[here, "eval"][name] == results[there, "eval"][name]
    assert _stable(f"{here}/run") == _stable(f"{there}/run")
    assert any(name.startswith("tensorboard/") for name in names(f"{there}/run"))
    assert storage.read_bytes(results[here, "eval"]["picture"]) == storage.read_bytes(results[there, "eval"]["picture"])
    # All that was read was copied once, under the digest of the data.
    digest = results[there, "prepare"]["digest"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [digest]
    # Again: nothing is to be done, and nothing is.
    before = _versions(there)
    assert chain(there, "prepare")[0] == 0
    code, _, err = chain(there, "train")
    assert (code, "is finished: step 6" in err) == (0, True)
    assert before == _versions(there)


def test_what_is_missing_or_damaged_afar_ends_in_one_line(chain, bucket, tmp_path):
    here = str(tmp_path / "here")
    assert one_line(chain(bucket, "train"), 65, f"{bucket}/data does not exist", "boceto prepare --output")
    for verb in ("prepare", "train"):
        assert chain(here, verb)[0] == 0
    for name, data in files(here).items():
        storage.write_bytes(f"{bucket}/{name}", data)
    shard = f"{bucket}/data/test-00000-of-00002.tfrecord"
    data = storage.read_bytes(shard)
    storage.write_bytes(shard, data[:-1] + b"!")
    assert one_line(chain(bucket, "eval"), 65, shard, "damaged", "prepare it again")
    storage.delete(shard)
    assert one_line(chain(bucket, "eval"), 65, shard, "is missing")
    storage.write_bytes(shard, data)
    model = f"{bucket}/run/export/saved_model/saved_model.pb"
    data = storage.read_bytes(model)
    storage.write_bytes(model, data[:-1] + b"!")
    assert one_line(chain(bucket, "eval"), 65, model, "has crc32c", "export it again")
    storage.delete(model)
    assert one_line(chain(bucket, "eval"), 65, model, "is missing")
    # The trainer notices too, and writes it again.
    code, _, err = chain(bucket, "train")
    assert code == 0
    assert "is missing or damaged; it is exported again" in err
    assert chain(bucket, "eval")[0] == 0
    storage.delete(f"{bucket}/run/export/artefact.json")
    assert one_line(chain(bucket, "eval"), 65, "has not exported yet")
    assert one_line(chain(f"{bucket}-no-such-bucket", "eval"), 2, "no such bucket")


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "variables/../../outside", "", "a//b", "."])
def test_names_in_an_artefact_are_not_trusted(name, tmp_path):
    run = f"memory://runs/{tmp_path.name}"
    described = {"saved_model.pb": storage.crc32c(b"x"), name: storage.crc32c(b"x")}
    fields = dict.fromkeys(("parameters", "height", "width", "channels", "embedding", "step"), 1)
    texts = dict.fromkeys(("net", "data_digest", "boceto"), "")
    entry = artefact.Artefact(**fields, **texts, classes=[], settings={}, files=described, images_per_second=0.0)
    storage.write_bytes(f"{run}/export/saved_model/saved_model.pb", b"x")
    with pytest.raises(artefact.DataError, match="which is no file below it"):
        artefact.verify(run, entry)
    with (
        pytest.raises(artefact.DataError, match="which is no file below it"),
        artefact.verified(f"{run}/export", entry),
    ):
        pass


def test_an_export_that_was_cut_off_is_none(chain, bucket, tmp_path, monkeypatch):
    assert chain(bucket, "prepare")[0] == 0
    assert chain(bucket, "train")[0] == 0
    upload = storage.upload

    def breaks(path, url):
        if url.endswith("saved_model.pb"):
            raise storage.Unavailable(f"{url}: no correct answer")
        upload(path, url)

    monkeypatch.setattr(storage, "upload", breaks)
    storage.write_bytes(f"{bucket}/run/export/saved_model/saved_model.pb", b"another")
    assert one_line(chain(bucket, "train"), 1, "no correct answer")
    assert one_line(chain(bucket, "eval"), 65, "has not exported yet")
    monkeypatch.undo()
    assert chain(bucket, "train")[0] == 0
    assert chain(bucket, "eval")[0] == 0


def test_of_two_jobs_in_one_folder_one_finishes(chain, bucket, monkeypatch):
    """Another machine's job takes the folder while this one runs, and finishes first."""
    from beam_pipelines import pipeline

    assert chain(bucket, "prepare", "--seed", "1")[0] == 0
    other = storage.read_bytes(f"{bucket}/data/dataset.json")
    create = storage.create_bytes

    def late(url, data):
        if url.endswith("dataset.json"):
            storage.write_bytes(url, other)
        return create(url, data)

    monkeypatch.setattr(pipeline.storage, "create_bytes", late)
    done = chain(bucket, "prepare", "--overwrite")
    assert one_line(done, 65, "another job has finished a data set in", "--output")
    assert storage.read_bytes(f"{bucket}/data/dataset.json") == other


def test_the_folder_of_another_machines_job_is_taken_once(chain, bucket, monkeypatch):
    owner = f"{bucket}/data/_work/owner.json"
    storage.write_bytes(owner, json.dumps({"token": "t", "process": 1, "host": "elsewhere"}).encode())
    versioned = storage.read_versioned

    def raced(url):
        found = versioned(url)
        if url == owner:
            storage.write_bytes(owner, json.dumps({"token": "u", "process": 2, "host": "elsewhere"}).encode())
        return found

    monkeypatch.setattr(storage, "read_versioned", raced)
    assert one_line(chain(bucket, "prepare"), 2, "is being taken by another job at this moment")
    monkeypatch.undo()
    assert chain(bucket, "prepare")[0] == 0
    assert not storage.list_files(f"{bucket}/data/_work")


def test_the_demo_takes_a_url(bucket, monkeypatch, capsys):
    asked = []
    scores = dict.fromkeys(("parameters", "train_accuracy", "test_accuracy", "map", "images_per_second"), 1)

    def program(verb, *words):
        asked.extend(word for word in words if "/" in word)
        return {"classes": 21, "picture": "p", **scores}

    monkeypatch.setattr(demo, "_program", program)
    assert demo.main(["--output", f"{bucket}/demo", "--json"]) == 0
    assert set(asked) == {f"{bucket}/demo/{name}" for name in ("data", *demo.NETS)}
    assert storage.exists(f"{bucket}/demo/demo.json")
    storage.write_bytes(f"{bucket}/demo/data/dataset.json", b"{}")
    assert demo.main(["--output", f"{bucket}/demo", "--fresh"]) == 0
    assert not storage.exists(f"{bucket}/demo/data/dataset.json")
    assert demo.main(["--output", "memory://demo"]) == 2
    assert "ends with this process" in capsys.readouterr().err


def test_a_data_set_in_memory_is_read_without_a_cache(make_data):
    local = make_data()
    for name, data in files(local).items():
        storage.write_bytes(f"memory://plain/{name}", data)
    assert len(dataset.load("memory://plain").split("train")) == 24
