"""Objects of Google Cloud Storage. Public buckets and emulators need no credentials.

The client library does every call, with a `Retry` of ours (decision 23). All calls may be tried again: a read changes
nothing; a write with a precondition recognises its own earlier try; a write or a delete without a precondition may
happen twice. The library does not verify a download that continued after a broken connection, and an emulator does not
verify an upload, so this module does.
"""

import base64
import contextlib
import io
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import google.auth
import google_crc32c
import requests
from google.api_core import exceptions as api
from google.api_core.retry import Retry
from google.auth.compute_engine._metadata import detect_gce_residency_linux
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud import storage as gcs
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import _should_retry
from urllib3.exceptions import HTTPError

from boceto.errors import SettingsError
from boceto.stores import Changed, Entry, Stat, Unavailable

TRIES = 3  # Of a transfer whose bytes are damaged.
_CHUNK = 1 << 20
_GET, _CREATE, _DELETE, _LIST = (f"storage.objects.{right}" for right in ("get", "create", "delete", "list"))
# https://cloud.google.com/storage/docs/buckets#naming
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_METADATA_SERVER = 1.0  # seconds to connect; inside Google's cloud it takes milliseconds
_FIRST_CONTACT = 2.0  # seconds
_LOGIN = "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"
_AGAIN = "run the same command again"

_LOG = logging.getLogger("boceto.stores")
# This module reports missing credentials in its own line.
logging.getLogger("google.auth").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class RetryLimits:
    """How long a failing call is tried again, all in seconds.

    The time between two tries is random, from zero to a bound. The bound is `first_delay` at first, and doubles up to
    `longest_delay`. A failure longer than `report_after` is reported, and again every `report_again`.
    """

    deadline: float = 120.0
    first_delay: float = 0.5
    longest_delay: float = 16.0
    connect: float = 10.0
    silence: float = 30.0
    report_after: float = 5.0
    report_again: float = 30.0


@dataclass(frozen=True)
class Connection:
    """A client. payer: the project that pays for the requests, if the credentials name it. reads_only: the storage is
    Google's own, and there are no credentials.
    """

    client: Any
    payer: str | None = None
    reads_only: bool = False


@dataclass
class _Call:
    """One call of the library. blob: the object, whose name is "" for the bucket. failed: whether a try has failed."""

    blob: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    failed: bool = False


class Store:
    """The adapter. endpoint: the address of the storage, if it is not the address that the library uses."""

    def __init__(self, limits: RetryLimits | None = None, endpoint: str | None = None) -> None:
        self._limits = limits or RetryLimits()
        self._endpoint = endpoint
        # By process: two processes must not share a connection, so a forked process makes its own.
        self._connections: dict[int, Connection] = {}
        # (right, bucket) of calls that succeeded; a later refusal is temporary. A forked process inherits it.
        self._granted: set[tuple[str, str]] = set()
        self._next_report = 0.0

    def list(self, url: str) -> list[Entry]:
        folder = url.rstrip("/") + "/"
        with self._call(folder, _LIST) as call:
            prefix, bucket = call.blob.name, call.blob.bucket
            found = bucket.list_blobs(prefix=prefix or None, fields="items(name,size),nextPageToken", **call.options)
            # A name that ends in a slash is a folder made in the console.
            entries = [Entry(f"gs://{bucket.name}/{blob.name}", blob.size) for blob in found if blob.name[-1] != "/"]
        if not entries and prefix and (alone := self.stat(url.rstrip("/"))):
            return [Entry(url.rstrip("/"), alone.size)]
        return sorted(entries)

    def stat(self, url: str) -> Stat | None:
        if not _bucket_and_name(url)[1]:
            return None
        try:
            with self._call(url, _GET) as call:
                call.blob.reload(**call.options)
        except FileNotFoundError:
            return None
        return _stat(call.blob)

    def fetch(self, url: str, file: BinaryIO, progress: Callable[[int], None]) -> None:
        self._fetch(url, file, progress)

    def _fetch(self, url: str, file: BinaryIO, progress: Callable[[int], None] = lambda _: None) -> str:
        """Does as `fetch`, and returns the version of the object."""
        for _ in range(TRIES):
            file.seek(0)
            file.truncate()
            checked = _Checked(file, progress)
            try:
                with self._call(url, _GET) as call:
                    call.blob.download_to_file(checked, raw_download=True, checksum=None, **call.options)
                if _hexadecimal(call.blob.crc32c) in {"", f"{checked.crc:08x}"}:
                    return str(call.blob.generation)
            except FileNotFoundError:
                if not checked.size:
                    raise  # Else the object was replaced after a part of it had arrived.
            progress(-checked.size)
        raise Unavailable(f"{url} arrived with another crc32c than stored; {_AGAIN}")

    def read(self, url: str, start: int, end: int | None) -> bytes:
        if start == 0 and end is None:
            return self.versioned(url)[0]
        if end is not None and end <= start:
            return b""
        last = None if end is None else end - 1
        with self._call(url, _GET) as call, contextlib.suppress(api.RequestRangeNotSatisfiable):
            data: bytes = call.blob.download_as_bytes(
                start=start, end=last, raw_download=True, checksum=None, **call.options
            )
            return data
        return b""

    def versioned(self, url: str) -> tuple[bytes, str]:
        file = io.BytesIO()
        version = self._fetch(url, file)
        return file.getvalue(), version

    @contextlib.contextmanager
    def writing(self, url: str) -> Iterator[BinaryIO]:
        with self._errors_in_words(url, _CREATE):
            self._connection(url, _CREATE)  # Missing credentials are an error before anything is written.
        with tempfile.TemporaryFile(prefix="boceto-") as file:
            yield file
            self._send(url, file, None)

    def create(self, url: str, data: bytes) -> str:
        try:
            return self._send(url, io.BytesIO(data), 0)
        except Changed:
            raise FileExistsError(f"{url} is there already") from None

    def replace(self, url: str, data: bytes, version: str) -> str:
        return self._send(url, io.BytesIO(data), int(version))

    def delete(self, url: str, match: int | None = None) -> None:
        with contextlib.suppress(FileNotFoundError), self._call(url, _DELETE) as call:
            call.blob.delete(if_generation_match=match, **call.options)

    def _send(self, url: str, file: BinaryIO, match: int | None) -> str:
        """Writes the bytes of a file to an object, and returns its version.

        match: the version that the object must have; 0 if it must not exist; None for any.

        Raises:
            Changed: the object has another version.
            Unavailable: the stored bytes were not the sent bytes, three times.
        """
        crc, size = 0, 0
        file.seek(0)
        while data := file.read(_CHUNK):
            crc, size = google_crc32c.extend(crc, data), size + len(data)
        for _ in range(TRIES):
            found = self._try_to_send(url, file, (size, f"{crc:08x}"), match)
            if found and (found.size, found.crc32c) == (size, f"{crc:08x}"):
                return found.version
            if found:  # Nobody shall read it.
                with contextlib.suppress(Changed):
                    self.delete(url, int(found.version))
            match = match if match is None else 0  # The object that had the version is gone.
        raise Unavailable(f"{url} was stored {TRIES} times with another crc32c than sent; {_AGAIN}")

    def _try_to_send(self, url: str, file: BinaryIO, wanted: tuple[int, str], match: int | None) -> Stat | None:
        """Uploads a file. Returns what is stored now, or None if the library removed it again as damaged."""
        file.seek(0)
        with self._call(url, _CREATE) as call:
            try:
                call.blob.upload_from_file(
                    file, size=wanted[0], checksum="crc32c", if_generation_match=match, **call.options
                )
            except api.PreconditionFailed:
                # The answer to an earlier try may be lost. Then the stored object is ours.
                found = self.stat(url) if call.failed else None
                if not found or (found.size, found.crc32c) != wanted or found.version == str(match):
                    raise
                return found
            except DataCorruption:
                return None
        return _stat(call.blob)

    def _connection(self, url: str, right: str) -> Connection:
        """Returns the connection of this process, which may carry out calls that need the right."""
        bucket, name = _bucket_and_name(url)
        connection = self._connections.get(os.getpid())
        if connection is None:
            connection = self._retry(right, bucket, _Call())(lambda: connect(url, self._endpoint, self._limits))()
            connection = self._connections.setdefault(os.getpid(), connection)
        if right in {_CREATE, _DELETE}:
            if connection.reads_only:
                raise _no_credentials(url)
            if not name:
                raise SettingsError(f"{url} names a bucket and no object; write gs://bucket/name")
        return connection

    @contextlib.contextmanager
    def _call(self, url: str, right: str) -> Iterator[_Call]:
        """Yields a call on the object of a URL that needs a right."""
        bucket, name = _bucket_and_name(url)
        with self._errors_in_words(url, right):
            connection = self._connection(url, right)
            blob = connection.client.bucket(bucket, user_project=connection.payer).blob(name)
            call = _Call(blob)
            timeout = self._limits.connect, self._limits.silence
            call.options.update(retry=self._retry(right, bucket, call), timeout=timeout)
            yield call
        self._granted.add((right, bucket))

    def _retry(self, right: str, bucket: str, call: _Call) -> Retry:
        """Returns the rule for one call, with backoff and full jitter."""
        begun, limits = time.monotonic(), self._limits

        def may_pass(error: Exception) -> bool:
            error = _plain(error)
            if isinstance(error, api.Unauthorized | api.Forbidden):
                return (right, bucket) in self._granted
            if isinstance(error, api.BadRequest):  # The bytes were damaged on their way.
                return "crc32c" in _message(error).lower()
            if isinstance(error, GoogleAuthError):
                return isinstance(error, TransportError) or error.retryable or bool(self._granted)
            return bool(_should_retry(error))

        def on_error(error: Exception) -> None:
            call.failed = True
            now = time.monotonic()
            if now - begun >= limits.report_after and now >= self._next_report:  # All threads share it.
                self._next_report = now + limits.report_again
                said = _message(error)
                _LOG.warning("waiting for gs://%s: %s; it is tried for %g s in all", bucket, said, limits.deadline)

        return Retry(
            predicate=may_pass,
            initial=limits.first_delay,
            maximum=limits.longest_delay,
            multiplier=2.0,
            timeout=limits.deadline,
            on_error=on_error,
        )

    @contextlib.contextmanager
    def _errors_in_words(self, url: str, right: str) -> Iterator[None]:
        """Raises an error of the library as one of ours: the value, the place and the remedy."""
        try:
            yield
        except (api.GoogleAPIError, GoogleAuthError, requests.RequestException, HTTPError, ConnectionError) as error:
            raise self._in_words(error, url, right) from error

    def _in_words(self, error: Exception, url: str, right: str) -> Exception:
        bucket, _ = _bucket_and_name(url)
        gave_up, error = isinstance(error, api.RetryError), _plain(error)
        said = _message(error)
        if gave_up or not isinstance(error, api.ClientError | GoogleAuthError | ValueError):
            why, remedy = "no correct answer", "check the network"
            if isinstance(error, api.TooManyRequests):
                why, remedy = "the quota is used up", "ask for less at a time or for a larger quota"
            if isinstance(error, api.Unauthorized | api.Forbidden):
                why, remedy = f"the right {right} was granted before and is missing now", "have it granted again"
            return Unavailable(f"{url}: {why} within {self._limits.deadline:g} s ({said}); {remedy}, then {_AGAIN}")
        if isinstance(error, api.PreconditionFailed):
            return Changed(f"{url}: another writer was first ({said}); let only one program write there, then {_AGAIN}")
        if not isinstance(error, api.NotFound):
            return self._refusal(error, url, right)
        if right in {_GET, _DELETE} and "bucket does not exist" not in said:
            return FileNotFoundError(f"{url} does not exist")
        if any(bucket == known for _, known in self._granted):
            return Unavailable(f"gs://{bucket}: the bucket existed and is gone; make it again, then {_AGAIN}")
        return SettingsError(f"gs://{bucket}: there is no such bucket; check its name or make it")

    def _refusal(self, error: Exception, url: str, right: str) -> SettingsError:
        bucket, said = _bucket_and_name(url)[0], _message(error)
        connection = self._connections.get(os.getpid())
        if isinstance(error, api.Unauthorized | api.Forbidden):
            if connection and connection.reads_only:
                return _no_credentials(url)
            named = re.search(r"storage\.[a-zA-Z]+\.[a-zA-Z]+", said)
            return SettingsError(
                f"{url}: the right {named.group() if named else right} is missing ({said}); have it granted on "
                f"gs://{bucket}, e.g. with the role storage.objectUser"
            )
        if "requester pays" in said.lower():
            return SettingsError(
                f"gs://{bucket}: the reader pays for the requests ({said}); name a project that pays: "
                "GOOGLE_CLOUD_QUOTA_PROJECT=project"
            )
        if isinstance(error, GoogleAuthError):
            return SettingsError(f"{url}: the Google credentials were refused: {said}; {_LOGIN}")
        if isinstance(error, ValueError):  # The client did not understand the URL.
            return SettingsError(f"{url}: {said}; STORAGE_EMULATOR_HOST must be http://host:port")
        return SettingsError(f"{url} was refused: {said}; check the names")


class _Checked:
    """Passes bytes on to a file. size, crc: of the bytes so far."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None]) -> None:
        self._file, self._progress = file, progress
        self.size, self.crc = 0, 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self.size, self.crc = self.size + len(data), google_crc32c.extend(self.crc, data)
        self._progress(len(data))
        return len(data)


def _bucket_and_name(url: str) -> tuple[str, str]:
    bucket, _, name = url.removeprefix("gs://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise SettingsError(
            f"{url} names no bucket; write gs://bucket/folder, with a bucket of 3 to 222 small letters, digits, "
            "dashes, underscores and dots"
        )
    return bucket, name


def _hexadecimal(crc32c: str | None) -> str:
    """Converts a CRC-32C (RFC 3720) from base64 to 8 hexadecimal digits: `yZRlqg==` -> `c99465aa`. None gives ""."""
    return base64.b64decode(crc32c).hex() if crc32c else ""


def _stat(blob: Any) -> Stat:
    return Stat(blob.size, _hexadecimal(blob.crc32c), str(blob.generation))


def _plain(error: Exception) -> Any:
    """Returns the error of one request, out of the error of a call, with the storage's own message."""
    if isinstance(error, api.RetryError) and isinstance(error.cause, Exception):
        return _plain(error.cause)
    # Of a transfer, the library's message is the whole answer and the status codes that it expected.
    if isinstance(error, InvalidResponse | api.GoogleAPICallError) and error.response is not None:
        return api.from_http_response(error.response)
    return error


def _message(error: Any) -> str:
    """Returns the message of an error in one short line, without the queries of URLs."""
    error = _plain(error)
    while error.args and isinstance(error.args[0], BaseException):  # google.auth wraps errors.
        error = error.args[0]
    text = str(getattr(error, "message", None) or (error.args[0] if error.args else error))
    return re.sub(r"\?\S*?=[^\s:]*", "", text.strip() or type(error).__name__).splitlines()[0][:300]


def _no_credentials(url: str) -> SettingsError:
    return SettingsError(f"{url}: no Google credentials; {_LOGIN}; public buckets can be read without credentials")


def connect(url: str, endpoint: str | None, limits: RetryLimits) -> Connection:
    """Returns a connection with the credentials of this machine, if there are any and the storage is Google's.

    Raises:
        SettingsError: the credentials cannot be used, or there are none and Google cannot be reached.
    """
    connection = connection_with(None, endpoint, limits)
    address = connection.client.api_endpoint
    if not address.endswith(".googleapis.com"):  # An emulator.
        return connection
    if credentials := credentials_of_machine(url, limits):
        return connection_with(credentials, endpoint, limits)
    try:
        requests.get(address, timeout=_FIRST_CONTACT)
    except requests.RequestException as error:
        raise SettingsError(
            f"{url}: no Google credentials, and {address} does not answer; check the network, {_LOGIN}"
        ) from error
    return Connection(connection.client, reads_only=True)


def connection_with(credentials: Any | None, endpoint: str | None, limits: RetryLimits) -> Connection:
    """Returns a connection with these credentials, or without any."""
    session = AuthorizedSession(credentials, auth_request=_CredentialsRequest(limits)) if credentials else None
    client = gcs.Client(
        project=None,
        credentials=credentials or AnonymousCredentials(),
        client_options={"api_endpoint": endpoint} if endpoint else None,
        _http=session or requests.Session(),
    )
    # Else the library asks for the bucket in another thread, which needs more rights, for traces that are off.
    client._bucket_metadata_cache = None  # noqa: SLF001 - there is no other way
    return Connection(client, getattr(credentials, "quota_project_id", None))


def credentials_of_machine(url: str, limits: RetryLimits) -> Any | None:
    """Returns the credentials of this machine, or None.

    Raises:
        SettingsError: they cannot be used.
    """
    try:
        return google.auth.default(scopes=gcs.Client.SCOPE, request=_CredentialsRequest(limits, probing=True))[0]
    except (DefaultCredentialsError, IsADirectoryError, FileNotFoundError, PermissionError, AttributeError) as error:
        said = str(error).partition("\n")[0]  # AttributeError: a file with JSON that is no object.
        if said.startswith("Your default credentials were not found"):
            return None
        raise SettingsError(f"{url}: the Google credentials cannot be used: {said}; {_LOGIN}") from error


@dataclass(frozen=True)
class _CredentialsRequest:
    """A request of google.auth. A server that is in trouble raises ConnectionError, so that the call is tried again.

    probing: outside of Google's cloud, a metadata server that does not answer does not exist. The library alone would
    ask it for many seconds.
    """

    limits: RetryLimits
    probing: bool = False

    def __call__(self, url: str, method: str = "GET", body: Any = None, headers: Any = None, **more: Any) -> Any:
        """Sends one request."""
        more["timeout"] = _METADATA_SERVER if self.probing else self.limits.connect, self.limits.silence
        host = urlsplit(url).netloc
        try:
            answer = Request()(url, method, body, headers, **more)
        except TransportError as error:
            if self.probing and not detect_gce_residency_linux():
                return SimpleNamespace(status=404, headers={}, data=b"")
            raise ConnectionError(f"no credentials from {host}: {error}") from error
        if answer.status in {408, 429, 500, 502, 503, 504}:
            raise ConnectionError(f"no credentials from {host}: it answers {answer.status}")
        return answer
