"""What gs:// does when the storage does not: real sockets, a real emulator, and a proxy between that does wrong."""

import contextlib
import io
import os
import subprocess
import sys
import threading
import time

import faulty_proxy
import numpy as np
import pytest
import requests
from faulty_proxy import answer, drop, flip_answer, flip_request, lose_answer, truncate

from boceto import storage
from boceto.errors import SettingsError
from boceto.stores import gs
from boceto.stores.gs import RetryLimits

HASTY = RetryLimits(deadline=0.3, first_delay=0.01, longest_delay=0.05, connect=0.3, silence=0.3)
UPLOAD, MEDIA, OBJECT = "/upload/", "/download/", "/storage/v1/b/[^/]*/o/"


FAULTS = {
    "429": answer(429),
    "503": answer(503),
    "500": answer(500),
    "408": answer(408),
    "drop": drop(),
    "lost answer": lose_answer(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_verb_gets_through_faults(proxy, url, fault):
    def faulty(method, path):
        proxy.clear()
        return proxy.add(FAULTS[fault], method=method, path=path, count=2)

    rule = faulty("POST", UPLOAD)
    version = storage.create_bytes(url, b"first")
    assert rule.left == 0 or fault == "lost answer"
    rule = faulty("POST", UPLOAD)
    version = storage.replace_bytes(url, b"second", version)
    assert rule.left == 0 or fault == "lost answer"
    rule = faulty("GET", MEDIA)
    assert storage.read_versioned(url) == (b"second", version)
    assert rule.left == 0
    rule = faulty("POST", UPLOAD)
    storage.write_bytes(url, b"third")
    assert rule.left == 0
    for verb in (storage.read_bytes, _opened):
        rule = faulty("GET", MEDIA)
        assert verb(url) == b"third"
        assert rule.left == 0
    rule = faulty("GET", "")
    assert storage.stat(url).crc32c == storage.crc32c(b"third")
    assert rule.left == 0
    rule = faulty("GET", "")
    assert [entry.size for entry in storage.list_files(url.rpartition("/")[0])] == [5]
    assert rule.left == 0
    rule = faulty("DELETE", "")
    storage.delete(url)
    assert rule.left == 0 or fault == "lost answer"
    assert not storage.exists(url)


def _opened(url):
    with storage.open_file(url) as file:
        return file.read()


def test_a_lost_answer_to_a_create_is_recognised(proxy, url):
    proxy.add(lose_answer(), method="POST", path=UPLOAD)
    version = storage.create_bytes(url, b"mine")
    assert [request.status for request in proxy.log if request.method == "POST"] == [None, 412]
    assert storage.read_versioned(url) == (b"mine", version)
    with pytest.raises(FileExistsError):
        storage.create_bytes(url, b"mine")  # The first try was answered: the bytes are someone else's.


def test_after_a_lost_answer_another_winner_is_recognised(proxy, url):
    proxy.add(drop(), method="POST", path=UPLOAD)
    other = faulty_proxy.call(lambda _: _direct(url, b"theirs"))
    proxy.add(other, method="POST", path=UPLOAD)
    with pytest.raises(FileExistsError):
        storage.create_bytes(url, b"mine")
    assert storage.read_bytes(url) == b"theirs"


def test_a_lost_answer_to_a_replace_is_recognised(proxy, url):
    first = storage.create_bytes(url, b"same")
    proxy.add(lose_answer(), method="POST", path=UPLOAD)
    second = storage.replace_bytes(url, b"same", first)
    assert second != first
    assert storage.read_versioned(url) == (b"same", second)
    proxy.add(drop(), method="POST", path=UPLOAD)
    proxy.add(faulty_proxy.call(lambda _: _direct(url, b"theirs")), method="POST", path=UPLOAD)
    with pytest.raises(storage.Changed):
        storage.replace_bytes(url, b"mine", second)
    assert storage.read_bytes(url) == b"theirs"


def _direct(url, data):
    """Writes as another process would."""
    from google.cloud import storage as library

    bucket, _, name = url.removeprefix("gs://").partition("/")
    with contextlib.closing(library.Client.create_anonymous_client()) as client:
        client.bucket(bucket).blob(name).upload_from_string(data)


def test_a_byte_flipped_on_its_way_there_is_noticed(proxy, url):
    rule = proxy.add(flip_request(-50), method="POST", path=UPLOAD)
    version = storage.create_bytes(url, b"0123456789" * 10)
    assert rule.left == 0
    assert storage.read_versioned(url) == (b"0123456789" * 10, version)
    rule = proxy.add(flip_request(-50), method="POST", path=UPLOAD)
    version = storage.replace_bytes(url, b"1123456789" * 10, version)
    assert rule.left == 0
    rule = proxy.add(flip_request(-50), method="POST", path=UPLOAD)
    storage.write_bytes(url, b"2123456789" * 10)
    assert rule.left == 0
    assert storage.read_bytes(url) == b"2123456789" * 10


@pytest.mark.parametrize("patience", [HASTY])
def test_what_never_arrives_whole_is_not_left_there(proxy, url):
    proxy.add(flip_request(-50), method="POST", path=UPLOAD, count=10_000)
    with pytest.raises(storage.Unavailable, match="was stored 3 times with another crc32c than sent"):
        storage.create_bytes(url, b"0123456789" * 10)
    assert not storage.exists(url)


@pytest.mark.parametrize("fault", [flip_answer(3), truncate(3), truncate(0), drop()], ids=lambda fault: fault.name)
def test_what_is_damaged_on_its_way_here_is_fetched_again(proxy, url, fault, tmp_path):
    storage.write_bytes(url, b"0123456789")
    for verb in (storage.read_bytes, lambda url: _downloaded(url, tmp_path)):
        rule = proxy.add(fault, method="GET", path=MEDIA)
        assert verb(url) == b"0123456789"
        assert rule.left == 0


def _downloaded(url, folder):
    told = []
    storage.download(url, folder / "here", told.append)
    assert sum(told) == (folder / "here").stat().st_size
    return (folder / "here").read_bytes()


@pytest.mark.parametrize("patience", [RetryLimits()])
def test_a_broken_download_goes_on_where_it_was(proxy, url, tmp_path):
    data = np.random.default_rng(0).bytes(70 << 20)
    storage.write_bytes(url, data)
    proxy.clear()
    rule = proxy.add(truncate(3 << 20), method="GET", path=MEDIA, count=3)
    assert _downloaded(url, tmp_path) == data
    assert rule.left == 0
    starts = sorted(
        int(request.headers["range"].removeprefix("bytes=").partition("-")[0])
        for request in proxy.log
        if "range" in request.headers
    )
    assert len(starts) == len(set(starts))  # No byte is asked for twice.
    assert {3 << 20, 6 << 20} <= set(starts)
    assert all("generation=" in request.path for request in proxy.log if "range" in request.headers)


@pytest.mark.parametrize("patience", [HASTY])
def test_a_download_that_stays_damaged_leaves_nothing(proxy, url, tmp_path):
    storage.write_bytes(url, b"0123456789")
    proxy.add(flip_answer(), method="GET", path=MEDIA, count=10_000)
    with pytest.raises(storage.Unavailable, match="arrived with another crc32c than stored"):
        storage.download(url, tmp_path / "here")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(storage.Unavailable, match="arrived with another crc32c than stored"):
        storage.read_versioned(url)
    with pytest.raises(storage.Unavailable, match="arrived with another crc32c than stored"):
        storage.open_file(url)


def test_an_object_replaced_during_its_download_comes_whole(proxy, url, tmp_path):
    old, new = (np.random.default_rng(seed).bytes(9 << 20) for seed in (0, 1))
    storage.write_bytes(url, old)
    proxy.add(truncate(3 << 20), method="GET", path=MEDIA)
    proxy.add(faulty_proxy.call(lambda _: _direct(url, new)), method="GET", path=MEDIA)
    assert _downloaded(url, tmp_path) == new


def test_an_object_replaced_while_it_is_read_stays_the_old_one(proxy, url):
    assert proxy
    storage.write_bytes(url, bytes(9 << 20))
    with storage.open_file(url) as file:
        file.read(1)
        _direct(url, b"new")
        assert file.read() == bytes((9 << 20) - 1)


@pytest.mark.parametrize("patience", [RetryLimits()])
def test_a_large_upload_survives_faults(proxy, url, tmp_path, emulator):
    here = tmp_path / "here"
    here.write_bytes(np.random.default_rng(0).bytes(70 << 20))
    rule = proxy.add(answer(503), method="POST", path=UPLOAD)  # The emulator has the rest sent to its own address.
    storage.upload(here, url)
    assert rule.left == 0
    assert [entry.url for entry in storage.list_files(emulator.bucket)] == [url]
    assert storage.checksum(url) == storage.checksum(str(here))


@pytest.mark.parametrize("patience", [HASTY])
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (answer(503), "no correct answer within 0.3 s .*; check the network, then run the same command again"),
        (answer(429), "the quota is used up within 0.3 s .*; ask for less at a time or for a larger quota"),
        (drop(), "no correct answer within 0.3 s"),
        (faulty_proxy.delay(1.0), "no correct answer within 0.3 s"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_storage_that_stays_broken_is_one_line(proxy, url, fault, says, tmp_path):
    proxy.add(fault, count=10_000)
    (tmp_path / "here").write_bytes(b"1")
    verbs = [
        lambda: storage.create_bytes(url, b"1"),
        lambda: storage.stat(url),
        lambda: storage.list_files(url),
        lambda: storage.read_bytes(url),
        lambda: storage.download(url, tmp_path / "there"),
        lambda: storage.upload(tmp_path / "here", url),
        lambda: storage.delete(url),
    ]
    for verb in verbs:
        before = time.monotonic()
        with pytest.raises(storage.Unavailable, match=says) as caught:
            verb()
        assert time.monotonic() - before < 60  # And not the 120 that it waits else.
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("gs://strokes-")


def test_what_is_refused_is_tried_once_and_names_the_right(proxy, url):
    said = b'{"error": {"message": "x@y.z does not have storage.objects.create access to the object."}}'
    proxy.add(answer(403, said), method="POST", path=UPLOAD)
    with pytest.raises(SettingsError, match="the right storage.objects.create is missing .*storage.objectUser"):
        storage.write_bytes(url, b"")
    assert len(proxy.log) == 1
    proxy.add(answer(403, said), method="POST", path=UPLOAD)
    with pytest.raises(SettingsError, match=r": x@y.z does not have storage.objects.create access to the object\.\);"):
        storage.write_bytes(url, b"")
    proxy.add(answer(403, said), method="GET", path=MEDIA)
    with pytest.raises(SettingsError, match=r": x@y.z does not have storage.objects.create access to the object\.\);"):
        storage.read_bytes(url)
    proxy.add(answer(403), method="DELETE")
    with pytest.raises(SettingsError, match="the right storage.objects.delete is missing"):
        storage.delete(url)
    proxy.add(answer(403), method="POST", path=UPLOAD)
    with pytest.raises(SettingsError, match="output = gs://strokes-.* cannot be written: .*storage.objects.create"):
        storage.check_writable(url, "output")
    proxy.add(answer(400), method="GET")
    with pytest.raises(SettingsError, match="was refused"):
        storage.stat(url)


def test_a_look_at_a_bucket_grants_no_right(proxy, emulator):
    assert storage.stat(emulator.bucket) is None
    assert not gs.Store()._granted
    assert not proxy.log


def test_a_lost_race_is_told_as_one_and_may_be_run_again(proxy, url):
    for method, verb in (("POST", lambda: storage.write_bytes(url, b"")), ("DELETE", lambda: storage.delete(url))):
        proxy.add(answer(412), method=method)
        with pytest.raises(storage.Changed, match=r"another writer was first .*run the same command again") as error:
            verb()
        assert error.value.exit_code == 1


@pytest.mark.usefixtures("emulator")
def test_a_bucket_that_is_not_there_is_named(tmp_path):
    url = "gs://no-such-bucket/a"
    (tmp_path / "here").write_bytes(b"")
    for verb in (
        lambda: storage.list_files(url),
        lambda: storage.write_bytes(url, b""),
        lambda: storage.create_bytes(url, b""),
        lambda: storage.replace_bytes(url, b"", "1"),
        lambda: storage.upload(tmp_path / "here", url),
        lambda: storage.check_writable(url, "output"),
    ):
        with pytest.raises(SettingsError, match="gs://no-such-bucket: there is no such bucket"):
            verb()
    assert storage.stat("gs://no-such-bucket") is None
    for url in ("gs://", "gs://-bucket/x"):
        with pytest.raises(SettingsError, match="names no bucket"):
            storage.stat(url)
    with pytest.raises(SettingsError, match="names a bucket and no object"):
        storage.write_bytes("gs://bucket", b"")


def test_a_malformed_url_is_told_before_anyone_is_asked(monkeypatch):
    monkeypatch.setattr(gs, "connect", lambda *_: pytest.fail("asked"))
    with pytest.raises(SettingsError, match="gs:/ names no bucket; write gs://bucket/folder"):
        gs.Store().list("gs://")


def test_a_real_storage_tells_of_its_missing_bucket_in_words(proxy, url):
    proxy.add(answer(404, b'{"error": {"message": "The specified bucket does not exist."}}'))
    with pytest.raises(SettingsError, match="there is no such bucket"):
        storage.stat(url)


def test_preconditions_that_are_not_honoured_are_noticed(proxy, emulator):
    def forget(request):
        request.path = request.path.replace("&ifGenerationMatch=0", "")

    proxy.add(faulty_proxy.call(forget), method="POST", path=UPLOAD, count=2)
    assert not storage.preconditions_honoured(emulator.bucket)
    assert storage.preconditions_honoured(emulator.bucket)
    assert storage.list_files(emulator.bucket) == []


def test_gs_is_listed_as_folders(emulator):
    for name in ("full/hot dog.ndjson", "full/cat.ndjson", "full2/dog.ndjson"):
        storage.write_bytes(storage.join(emulator.bucket, name), b"1")
    listed = storage.list_files(storage.join(emulator.bucket, "full"))
    assert [entry.url.rpartition("/")[2] for entry in listed] == ["cat.ndjson", "hot dog.ndjson"]
    assert len(storage.list_files(emulator.bucket)) == 3


def test_a_folder_made_in_the_console_is_no_file(proxy, emulator):
    items = b'{"items": [{"name": "full/", "size": "0"}, {"name": "full/cat.ndjson", "size": "1"}]}'
    proxy.add(answer(200, items), method="GET")
    listed = storage.list_files(storage.join(emulator.bucket, "full"))
    assert [entry.url for entry in listed] == [storage.join(emulator.bucket, "full", "cat.ndjson")]


def test_nothing_is_asked_but_what_is_needed(proxy, url):
    storage.write_bytes(url, b"1")
    storage.stat(url)
    storage.list_files(url.rpartition("/")[0])
    storage.read_bytes(url)
    storage.delete(url)
    assert [request.method for request in proxy.log] == ["POST", "GET", "GET", "GET", "DELETE"]


def test_prepare_reads_quickdraw_from_gs_in_all_its_forms(emulator, tmp_path):
    from beam_pipelines.__main__ import main

    lines = b"".join(b'{"word":"hot dog","drawing":[[[0,255],[0,%d]]]}\n' % number for number in range(4))
    rows = b"".join(b'hot dog,"[[[0,255],[0,%d]]]"\n' % number for number in range(4, 7))
    moves = np.empty(3, object)
    moves[:] = [np.array([[0, 0, 0], [255, number, 1]], np.int16) for number in range(7, 10)]
    np.savez(packed := io.BytesIO(), train=moves[:2], valid=moves[2:])
    folder = storage.join(emulator.bucket, "full", "simplified")
    for form, content in {"ndjson": lines, "csv": b"word,drawing\n" + rows, "npz": packed.getvalue()}.items():
        storage.write_bytes(storage.join(folder, f"hot dog.{form}"), content)
    words = ["--train-per-class", "8", "--test-per-class", "2", "--size", "16", "--workers", "1", "--no-preview"]
    assert main(["--input", folder, "--output", str(tmp_path / "data"), *words]) == 0
    assert (tmp_path / "data" / "dataset.json").exists()


def test_a_forked_process_and_many_threads_read(emulator):
    url = storage.join(emulator.bucket, "data")
    storage.write_bytes(url, b"0123456789" * 1000)
    wrong = []

    def read():
        wrong.extend(1 for _ in range(20) if storage.read_bytes(url) != b"0123456789" * 1000)

    script = (
        "import os, sys, threading\nfrom boceto import storage\n"
        f"read = lambda: storage.read_bytes({url!r}) == b'0123456789' * 1000\n"
        "assert read()\nchildren = []\n"
        "for _ in range(3):\n"
        "    child = os.fork()\n"
        "    if not child:\n        os._exit(0 if all(read() for _ in range(20)) else 1)\n"
        "    children.append(child)\n"
        "assert all(read() for _ in range(20))\n"
        "sys.exit(sum(os.waitpid(child, 0)[1] for child in children))"
    )
    done = subprocess.Popen([sys.executable, "-c", script])
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert done.wait(60) == 0


def _alone(tmp_path, code, **environment):
    """Runs `code` as somebody without credentials; returns what it wrote and how many seconds it took."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GOOGLE_", "STORAGE_", "GCE_"))}
    clean |= {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path)} | environment
    script = (
        "from boceto import storage\nfrom boceto.console import run_program\nimport sys, time\n"
        f"def work(console):\n    {code}\n    return {{}}, False\n"
        "import google.cloud.storage, google.auth.transport.requests\nbefore = time.monotonic()\n"
        "code = run_program('train', work)\nprint(time.monotonic() - before)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], env=clean, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, float(done.stdout)


# An address that is nobody's (RFC 5737): what is sent there is lost, or refused at once.
NOWHERE = "192.0.2.1"


def test_without_credentials_writing_is_one_line_at_once(tmp_path):
    code, said, seconds = _alone(
        tmp_path,
        "storage.write_bytes('gs://bucket/x', b'')",
        GCE_METADATA_IP=NOWHERE,
        https_proxy="http://127.0.0.1:9",
    )
    assert code == 2
    assert said.startswith("boceto train: error: gs://bucket/x: no Google credentials")
    assert "gcloud auth application-default login" in said
    assert said.count("\n") == 1
    assert seconds < 60  # And not the 120 that it waits else.


def test_without_credentials_and_network_reading_is_one_line_soon(tmp_path):
    code, said, seconds = _alone(
        tmp_path,
        "storage.read_bytes('gs://bucket/x')",
        GCE_METADATA_IP=NOWHERE,
        https_proxy=f"http://{NOWHERE}:9",
    )
    assert code == 2
    assert "no Google credentials, and https://storage.googleapis.com does not answer; check the network" in said
    assert said.count("\n") == 1
    assert seconds < 60  # And not the 120 that it waits else.


@pytest.mark.parametrize("name", ["no.json", "list.json", "."])
def test_credentials_that_cannot_be_used_are_named(tmp_path, name):
    (tmp_path / "list.json").write_text("[]")
    code, said, _ = _alone(
        tmp_path, "storage.read_bytes('gs://bucket/x')", GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / name)
    )
    assert code == 2
    assert "gs://bucket/x: the Google credentials cannot be used: " in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("address", ["nonsense", "http://"])
def test_an_emulator_whose_address_is_none_is_told_at_once(tmp_path, address):
    code, said, _ = _alone(tmp_path, "storage.read_bytes('gs://bucket/x')", STORAGE_EMULATOR_HOST=address)
    assert code == 2
    assert "STORAGE_EMULATOR_HOST" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("patience", [RetryLimits(30.0, 0.01, 0.05, connect=5.0, silence=5.0, report_after=0.0)])
def test_who_waits_for_a_storage_is_told_what_for_and_not_too_often(url, proxy, caplog, emulator):
    storage.write_bytes(url, b"here")
    proxy.add(answer(503), method="GET", count=4)
    with caplog.at_level("WARNING", "boceto.stores"):
        assert storage.read_bytes(url) == b"here"
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"waiting for {emulator.bucket}: GET {proxy.url}/download/storage/v1/b/")
    assert said.endswith(": out of order; it is tried for 30 s in all")


def test_a_bucket_that_goes_is_a_fault_where_one_that_never_was_is_a_setting(url, proxy, emulator):
    storage.write_bytes(url, b"here")
    storage.delete(url)
    requests.delete(f"{emulator.url}/storage/v1/b/{emulator.bucket[5:]}", timeout=60).raise_for_status()
    with pytest.raises(storage.Unavailable, match=f"{emulator.bucket}: the bucket existed and is gone; make it again"):
        storage.write_bytes(url, b"gone")
    with pytest.raises(SettingsError, match="gs://never: there is no such bucket"):
        storage.write_bytes("gs://never/a", b"gone")
