import json

import pytest

from boceto import artefact, contract, storage
from boceto.artefact import Artefact
from boceto.errors import DataError

MODEL = b"model"
DESCRIBED = Artefact(
    net="sknet",
    parameters=5,
    classes=["cat"],
    height=28,
    channels=1,
    width=28,
    embedding=8,
    step=3,
    data_digest="d",
    settings={"seed": 0},
    files={"saved_model.pb": storage.crc32c(MODEL)},
    images_per_second=1.5,
    boceto="test",
)


@pytest.fixture
def url(tmp_path):
    run = f"memory://artefact/{tmp_path.name}"
    storage.write_bytes(storage.join(run, artefact.FOLDER, artefact.MODEL, "saved_model.pb"), MODEL)
    return run


def write(url, text):
    storage.write_bytes(storage.join(url, artefact.FOLDER, artefact.DESCRIPTION), text)


def test_what_was_written_is_read_and_verified(url):
    write(url, DESCRIBED.to_json())
    assert artefact.load(url) == DESCRIBED
    assert artefact.verify(url, DESCRIBED).endswith(artefact.MODEL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 5}, "classes is 5, not a list"),
        ({"classes": ["cat", 5]}, r"classes\[1\] is 5, not a text"),
        ({"files": 5}, "files is 5, not an object"),
        ({"embedding": "x"}, "embedding is 'x', not a whole number"),
        ({"parameters": "x"}, "parameters is 'x', not a whole number"),
        ({"version": 99}, "its format is 'boceto-artefact' version 99"),
    ],
)
def test_a_field_of_another_type_is_named(url, change, message):
    write(url, contract.sealed(json.loads(DESCRIBED.to_json()) | change))
    with pytest.raises(DataError, match=rf"artefact.json is not an .*{message}.*`boceto train --run {url}`"):
        artefact.load(url)


def test_a_flipped_byte_is_refused_wherever_it_is(url):
    whole = DESCRIBED.to_json()
    for at in range(len(whole)):
        write(url, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DataError, match="artefact.json is not an artefact's description"):
            artefact.load(url)


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100_000, b"5"])
def test_what_is_no_description_is_refused(url, text):
    write(url, text)
    with pytest.raises(DataError, match="artefact.json is not an artefact's description"):
        artefact.load(url)


def test_a_run_without_export_is_refused(url):
    with pytest.raises(DataError, match="has not exported yet"):
        artefact.load(url)


def test_a_changed_or_missing_file_is_refused(url):
    path = storage.join(url, artefact.FOLDER, artefact.MODEL, "saved_model.pb")
    storage.write_bytes(path, MODEL + b"!")
    with pytest.raises(DataError, match="saved_model.pb has crc32c"):
        artefact.verify(url, DESCRIBED)
    storage.delete(path)
    with pytest.raises(DataError, match="saved_model.pb is missing"):
        artefact.verify(url, DESCRIBED)


@pytest.mark.parametrize("name", ["run [1]", "run*", "a\\b", "what?", "plain"])
def test_the_folder_to_load_has_no_sign_that_tensorflow_takes_for_a_pattern(tmp_path, name):
    run = str(tmp_path / name)
    storage.write_bytes(storage.join(run, artefact.FOLDER, artefact.MODEL, "saved_model.pb"), MODEL)
    with artefact.verified(storage.join(run, artefact.FOLDER), DESCRIBED) as folder:
        assert (folder / "saved_model.pb").read_bytes() == MODEL
        assert not set("[]*?\\") & set(str(folder))
