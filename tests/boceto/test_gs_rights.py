"""Who is let in at gs://, and who no longer: an emulator, a metadata server, and proxies that do wrong in between."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import faulty_proxy
import pytest
from faulty_proxy import answer, delay, drop

from boceto import storage
from boceto.errors import SettingsError
from boceto.stores import gs
from boceto.stores.gs import RetryLimits

QUICK = RetryLimits(deadline=8.0, first_delay=0.01, longest_delay=0.05, connect=1.0, silence=5.0)
HASTY = RetryLimits(deadline=0.3, first_delay=0.01, longest_delay=0.05, connect=0.3, silence=0.3)
UPLOAD, MEDIA = "/upload/", "/download/"
TOKENS = "/token"


@pytest.fixture
def patience():
    return QUICK


class _Metadata(BaseHTTPRequestHandler):
    """What a metadata server says to a library; its tokens are over at once, so that each request needs another."""

    def do_GET(self):
        path = self.path.partition("?")[0].removeprefix("/computeMetadata/v1/")
        said = {
            "/": "",
            "project/project-id": "project",
            "instance/service-accounts/default/": {"email": "default", "scopes": []},
            "instance/service-accounts/default/token": {"access_token": "t", "expires_in": 1, "token_type": "Bearer"},
        }.get(path)
        body = said if isinstance(said, str) else json.dumps(said)
        self.send_response(404 if said is None else 200)
        self.send_header("metadata-flavor", "Google")
        self.send_header("content-type", "text/plain" if isinstance(said, str) else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        """To nobody."""


@pytest.fixture
def metadata(monkeypatch, tmp_path, proxy):
    """A proxy before a metadata server: gs:// asks there who it is, though the storage is an emulator."""
    from google.auth.compute_engine import _metadata

    def connect(url, endpoint, limits):
        return gs.connection_with(gs.credentials_of_machine(url, limits), endpoint, limits)

    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST", "NO_GCE_CHECK"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.ExitStack() as stack:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Metadata)
        stack.callback(server.server_close)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        stack.callback(server.shutdown)
        before = stack.enter_context(faulty_proxy.FaultyProxy(f"http://127.0.0.1:{server.server_port}"))
        address = before.url.removeprefix("http://")
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.setenv("GCE_METADATA_IP", address)
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", address)
        monkeypatch.setattr(gs, "connect", connect)
        monkeypatch.setattr(gs, "detect_gce_residency_linux", lambda: True)
        yield before


VERBS = {
    "POST": (UPLOAD, lambda url: storage.write_bytes(url, b"here")),
    "GET": (MEDIA, storage.read_bytes),
    "list": ("/o[?]", lambda url: storage.list_files(url.rpartition("/")[0])),
    "DELETE": ("", storage.delete),
}


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("verb", VERBS)
def test_a_right_that_was_there_is_waited_for(proxy, url, verb, status):
    path, does = VERBS[verb]
    storage.write_bytes(url, b"here")
    does(url)
    storage.write_bytes(url, b"here")
    gs.Store()._connections.clear()  # As in a process that was forked.
    rule = proxy.add(answer(status), method="GET" if verb == "list" else verb, path=path, count=3)
    does(url)
    assert rule.left == 0


@pytest.mark.parametrize("patience", [HASTY])
@pytest.mark.parametrize("status", [401, 403])
def test_a_right_that_does_not_come_back_is_a_fault_and_one_that_never_was_a_setting(proxy, url, status):
    rule = proxy.add(answer(status), method="POST", path=UPLOAD)
    with pytest.raises(SettingsError, match="the right storage.objects.create is missing .*storage.objectUser"):
        storage.write_bytes(url, b"here")
    assert rule.left == 0
    storage.write_bytes(url, b"here")
    proxy.add(answer(status), count=10_000)
    with pytest.raises(
        storage.Unavailable,
        match="right storage.objects.create was granted before and is missing now within 0.3 s .*granted again",
    ):
        storage.write_bytes(url, b"here")
    with pytest.raises(SettingsError, match="the right storage.objects.get is missing"):
        storage.read_bytes(url)  # Of writing nothing follows for reading.


@pytest.mark.parametrize(
    ("path", "fault", "count"),
    [("", delay(2.5), 1), ("", answer(503), 5), ("", drop(), 3), (TOKENS, answer(503), 8), (TOKENS, delay(2.5), 1)],
    ids=["late", "503", "silent", "no token", "late token"],
)
def test_a_metadata_server_in_trouble_is_waited_for_at_the_start(metadata, url, path, fault, count):
    rule = metadata.add(fault, path=path, count=count)
    storage.write_bytes(url, b"here")
    assert rule.left == 0


@pytest.mark.parametrize("fault", [answer(503), answer(403), answer(404), drop(), delay(2.5)], ids=lambda it: it.name)
def test_a_metadata_server_in_trouble_is_waited_for_when_a_token_is_due(metadata, url, fault, proxy):
    storage.write_bytes(url, b"here")
    for verb in (storage.read_bytes, storage.stat, lambda url: storage.write_bytes(url, b"there")):
        rule = metadata.add(fault, path=TOKENS, count=1 if fault.name.startswith("delay") else 4)
        verb(url)
        assert rule.left == 0
    assert all(request.headers["authorization"] == "Bearer t" for request in proxy.log)


@pytest.mark.parametrize("patience", [HASTY])
def test_credentials_that_do_not_come_back_are_a_fault_and_refused_ones_at_the_start_a_setting(metadata, url, caplog):
    rule = metadata.add(answer(403), path=TOKENS)
    with pytest.raises(SettingsError, match="the Google credentials were refused: .*403"):
        storage.write_bytes(url, b"here")
    assert rule.left == 0
    storage.write_bytes(url, b"here")
    rule = metadata.add(answer(403), path=TOKENS, count=10_000)
    with pytest.raises(storage.Unavailable, match="a name..txt: no correct answer within 0.3 s .*403"):
        storage.write_bytes(url, b"here")
    rule.left = 0
    metadata.add(answer(503), path=TOKENS, count=10_000)
    with pytest.raises(storage.Unavailable, match="no credentials from 127.0.0.1:[0-9]+: it answers 503"):
        storage.read_bytes(url)


@pytest.mark.parametrize("patience", [HASTY])
def test_a_metadata_server_that_stays_silent_is_no_missing_credentials(metadata, url):
    metadata.add(answer(503), count=10_000)
    with pytest.raises(storage.Unavailable, match="a name..txt: no correct answer within 0.3 s .*it answers 503"):
        storage.write_bytes(url, b"here")


def test_a_bucket_whose_readers_pay_is_told_who_can(metadata, proxy, url, monkeypatch):
    said = b'{"error": {"message": "Bucket is a requester pays bucket but no user project provided."}}'
    proxy.add(answer(400, said), count=10_000, when=lambda request: "userProject=mine" not in request.path)
    for does in (storage.list_files, storage.read_bytes, storage.stat, lambda url: storage.write_bytes(url, b"")):
        with pytest.raises(SettingsError, match="requester pays.*GOOGLE_CLOUD_QUOTA_PROJECT=project"):
            does(url)
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "mine")
    gs.Store()._connections.clear()
    storage.write_bytes(url, b"paid")
    assert storage.read_bytes(url) == b"paid"
    assert [entry.url for entry in storage.list_files(url)] == [url]
    storage.delete(url)


@pytest.mark.parametrize("address", ["nonsense", "localhost:", "localhost:4443", "1.2.3.4:5:6"])
def test_an_emulator_whose_address_has_no_scheme_is_told(emulator, monkeypatch, address):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    with pytest.raises(SettingsError, match="STORAGE_EMULATOR_HOST must be http://host:port"):
        storage.read_bytes(f"{emulator.bucket}/a")


@pytest.mark.parametrize("bucket", ["My-Bucket", "a", "ab", "bucket:80", "-bucket", "bucket.", "b cket", "b%20cket"])
def test_a_bucket_that_cannot_be_is_told_at_once(bucket):
    with pytest.raises(SettingsError, match=f"gs://{bucket}/x names no bucket; .* small letters"):
        storage.stat(f"gs://{bucket}/x")
