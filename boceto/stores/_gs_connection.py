"""The connection of a process to Google Cloud Storage: its credentials, and the rule for retries."""

import contextlib
import logging
import re
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from boceto.errors import SettingsError

_CONNECTIONS = 32
_WORTH_ANOTHER_TRY = {408, 429, 500, 502, 503, 504}
_REFUSED = {401, 403}
# https://cloud.google.com/storage/docs/buckets#naming
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_ADDRESS = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\]):\d+")
_METADATA_SERVER = 1.0  # seconds to connect; inside Google's cloud it takes milliseconds
_FIRST_CONTACT = 2.0  # seconds
LOGIN = "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"

_LOG = logging.getLogger("boceto.stores")
# The adapter reports missing credentials in its own line.
logging.getLogger("google.auth").addHandler(logging.NullHandler())


class NoCredentialsAnswer(ConnectionError):  # noqa: N818 - it says what happened
    """A server of credentials gave no answer, or a temporary error. It is tried again, as any ConnectionError."""


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
class ObjectName:
    """The name of an object in a bucket."""

    bucket: str
    name: str

    @property
    def url(self) -> str:
        """Returns the URL of the object."""
        return f"gs://{self.bucket}/{self.name}"


def object_name(url: str) -> ObjectName:
    """Returns the bucket and the name in a `gs://` URL."""
    bucket, _, name = url.removeprefix("gs://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise SettingsError(
            f"{url} names no bucket; write gs://bucket/folder, with a bucket of 3 to 222 small letters, digits, "
            "dashes, underscores and dots"
        )
    return ObjectName(bucket, name)


def message_of(error: Any) -> str:
    """Returns the message of an error in one short line."""
    from google.api_core import exceptions

    while error.args and isinstance(error.args[0], BaseException):  # google.auth wraps errors.
        error = error.args[0]
    if code_of(error) and not hasattr(error, "message"):  # An error of a transfer, whose message is shorter.
        error = exceptions.from_http_response(error.response)
    text = str(getattr(error, "message", None) or (error.args[0] if error.args else error))
    return re.sub(r"\?\S*?=[^\s:]*", "", text.strip() or type(error).__name__).splitlines()[0][:300]


class RetryReporter:
    """Reports that calls are tried again. All threads of a connection share it, so the report is not repeated often."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0.0

    def report(self, host: str, error: BaseException, limits: RetryLimits) -> None:
        """Logs the reason of a wait, unless it was logged a short time ago."""
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + limits.report_again
        _LOG.warning("waiting for %s: %s; it is tried for %g s in all", host, message_of(error), limits.deadline)


@dataclass(frozen=True)
class Connection:
    """A client and its session.

    anonymous: the storage is Google's own, and there are no credentials. granted: the kinds of requests
    (`request_kind`) that were answered; a later refusal of such a request is temporary. payer: the project that pays
    for the requests, if the credentials name it.
    """

    client: Any
    session: Any
    anonymous: bool
    limits: RetryLimits = field(default_factory=RetryLimits)
    granted: set[tuple[str, ...]] = field(default_factory=set)
    payer: str | None = None
    reporter: RetryReporter = field(default_factory=RetryReporter)

    @property
    def timeout(self) -> tuple[float, float]:
        """Returns the limits of one request: seconds to connect, and seconds without a byte."""
        return self.limits.connect, self.limits.silence

    @property
    def options(self) -> dict[str, Any]:
        """Returns the arguments of each call of the library."""
        return {"retry": self.retry, "timeout": self.timeout}

    @property
    def retry(self) -> Any:
        """Returns a google.api_core Retry for one call, with backoff and full jitter.

        It tries again after 408, 429, 5xx and broken connections. Its `failed` is true after a failed try.
        """
        from google.api_core.retry import Retry

        limits, begun = self.limits, time.monotonic()

        def on_error(error: BaseException) -> None:
            retry.failed = True
            if time.monotonic() - begun >= limits.report_after:
                self.reporter.report(urlsplit(self.client.api_endpoint).netloc, error, limits)

        retry: Any = Retry(
            predicate=self.may_pass,
            initial=limits.first_delay,
            maximum=limits.longest_delay,
            multiplier=2.0,
            timeout=limits.deadline,
            on_error=on_error,
        )
        retry.failed = False
        return retry

    def may_pass(self, error: BaseException) -> bool:
        """Returns whether an error may be temporary."""
        from google.auth.exceptions import GoogleAuthError, TransportError

        if code := code_of(error):
            return code in _WORTH_ANOTHER_TRY or (code in _REFUSED and _kind_of(error) in self.granted)
        if isinstance(error, GoogleAuthError):
            return isinstance(error, TransportError) or error.retryable or bool(self.granted)
        return _is_broken(error)

    def bucket(self, name: str) -> Any:
        """Returns the library's bucket, without a request."""
        return self.client.bucket(name, user_project=self.payer)

    def blob(self, target: ObjectName, version: str | None = None) -> Any:
        """Returns the library's object, or one version of it, without a request."""
        return self.bucket(target.bucket).blob(target.name, generation=int(version) if version else None)


def code_of(error: BaseException | None) -> int | None:
    """Returns the HTTP status in an error of the library, or None."""
    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud.storage.exceptions import InvalidResponse

    if isinstance(error, InvalidResponse):
        return int(error.response.status_code)
    return error.code if isinstance(error, GoogleAPICallError) else None


def request_kind(request: Any) -> tuple[str, ...]:
    """Returns the kind of a request: (method, bucket), or (method, bucket, "list") for a listing."""
    named = re.search(r"/b/([^/?]+)/o(/?)", request.url)
    if named is None:
        return ()
    listing = request.method == "GET" and not named[2]
    return (request.method, named[1], "list") if listing else (request.method, named[1])


def _kind_of(error: Any) -> tuple[str, ...]:
    request = getattr(error.response, "request", None)
    return request_kind(request) if request is not None else ()


def _is_broken(error: BaseException) -> bool:
    """Returns whether an error says that a connection broke."""
    from http.client import HTTPException

    from requests import exceptions as http
    from urllib3.exceptions import HTTPError

    broken = (http.ConnectionError, http.ChunkedEncodingError, http.Timeout, HTTPError, HTTPException)
    return isinstance(error, (ConnectionError, TimeoutError, *broken))


def anonymous_connection(endpoint: str | None, limits: RetryLimits, granted: set[tuple[str, ...]]) -> Connection:
    """Returns a connection without credentials. An emulator needs none."""
    from google.auth.credentials import AnonymousCredentials

    connection = _connection(AnonymousCredentials(), endpoint, limits, granted)
    address = connection.client.api_endpoint  # The library reads STORAGE_EMULATOR_HOST.
    if "://" in address:
        return connection
    if not _ADDRESS.fullmatch(address):
        raise SettingsError(f"STORAGE_EMULATOR_HOST = {address} is no address; write http://host:port")
    return _connection(AnonymousCredentials(), f"http://{address}", limits, granted)


def connect(url: str, endpoint: str | None, connection: Connection) -> Connection:
    """Returns a connection with the credentials of this machine. connection: the one without credentials.

    Raises:
        SettingsError: the credentials cannot be used, or there are none and Google cannot be reached.
    """
    if not connection.client.api_endpoint.endswith(".googleapis.com"):
        return connection
    credentials = _credentials(url, connection.limits)
    if credentials is not None:
        return _connection(credentials, endpoint, connection.limits, connection.granted)
    _reach(connection.session, connection.client.api_endpoint, url)
    return replace(connection, anonymous=True)


def _connection(
    credentials: Any, endpoint: str | None, limits: RetryLimits, granted: set[tuple[str, ...]]
) -> Connection:
    from google.cloud import storage as gcs

    def answered(response: Any, **_: Any) -> None:
        if response.ok and (what := request_kind(response.request)):
            granted.add(what)
        if not response.ok:
            response.content  # noqa: B018 - an answer that is not read keeps its connection busy

    session = _session(credentials, limits)
    session.hooks["response"].append(answered)
    options = {"api_endpoint": endpoint} if endpoint else None
    client = gcs.Client(project=None, credentials=credentials, client_options=options, _http=session)
    # Else the library asks for the bucket in another thread, which needs more rights, for traces that are off.
    client._bucket_metadata_cache = None  # noqa: SLF001 - there is no other way
    payer = getattr(credentials, "quota_project_id", None)
    return Connection(client, session, anonymous=False, limits=limits, granted=granted, payer=payer)


def _session(credentials: Any, limits: RetryLimits) -> Any:
    from google.auth.credentials import AnonymousCredentials
    from google.auth.transport.requests import AuthorizedSession
    from requests.adapters import HTTPAdapter

    anonymous = isinstance(credentials, AnonymousCredentials)  # They cannot be refreshed.
    session = AuthorizedSession(
        credentials, refresh_status_codes=() if anonymous else (401,), auth_request=_CredentialsRequest(limits)
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))
    return session


def _credentials(url: str, limits: RetryLimits) -> Any | None:
    """Returns the credentials of this machine, or None.

    The library alone would ask an absent metadata server for many seconds.
    """
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage as gcs

    asking = _CredentialsRequest(replace(limits, connect=_METADATA_SERVER), absent=True)
    try:
        return google.auth.default(scopes=gcs.Client.SCOPE, request=asking)[0]
    except DefaultCredentialsError as error:
        message = str(error).partition("\n")[0]
        if message.startswith("Your default credentials were not found"):
            return None
        raise SettingsError(f"{url}: the Google credentials cannot be used: {message}; {LOGIN}") from error
    except (
        IsADirectoryError,
        FileNotFoundError,
        PermissionError,
        AttributeError,
    ) as error:  # AttributeError: no JSON object.
        raise SettingsError(f"{url}: the Google credentials cannot be used: {error}; {LOGIN}") from error


@dataclass(frozen=True)
class _CredentialsRequest:
    """A google.auth request for credentials. It raises NoCredentialsAnswer for temporary errors: then we try again.

    absent: outside of Google's cloud, a server that cannot be reached does not exist.
    """

    limits: RetryLimits
    absent: bool = False

    def __call__(self, url: str, method: str = "GET", body: Any = None, headers: Any = None, **more: Any) -> Any:
        """Sends one request."""
        from google.auth.compute_engine._metadata import detect_gce_residency_linux
        from google.auth.exceptions import TransportError
        from google.auth.transport.requests import Request

        more["timeout"] = self.limits.connect, self.limits.silence
        host = urlsplit(url).netloc
        try:
            answer = Request()(url, method, body, headers, **more)
        except TransportError as error:
            if self.absent and _unreachable(error.__cause__) and not detect_gce_residency_linux():
                return _NoAnswer()
            raise NoCredentialsAnswer(f"no credentials from {host}: {error}") from error
        if answer.status in _WORTH_ANOTHER_TRY:
            raise NoCredentialsAnswer(f"no credentials from {host}: it answers {answer.status}")
        return answer


@dataclass(frozen=True)
class _NoAnswer:
    status: int = 404
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""


def _unreachable(error: BaseException | None) -> bool:
    """Returns whether no server accepted the connection."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError

    reason = getattr(error.args[0], "reason", None) if error and error.args else None
    return isinstance(reason, (ConnectTimeoutError, NewConnectionError, ProxyError))


def _reach(session: Any, endpoint: str, url: str) -> None:
    """Checks that the endpoint answers. It uses a thread, since the lookup of a name has no timeout."""
    reached = threading.Event()

    def ask() -> None:
        with contextlib.suppress(Exception):
            session.get(endpoint, timeout=_FIRST_CONTACT)
            reached.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_FIRST_CONTACT)
    if not reached.is_set():
        raise SettingsError(f"{url}: no Google credentials, and {endpoint} does not answer; check the network, {LOGIN}")
