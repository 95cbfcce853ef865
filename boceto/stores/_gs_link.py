"""The connection of a process to Google Cloud Storage: its credentials, and which failed calls are repeated."""

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
# Only the adapter's own line tells that there are no credentials.
logging.getLogger("google.auth").addHandler(logging.NullHandler())


class Broken(ConnectionError):  # noqa: N818 - it says what the bytes are
    """What arrived is not what was sent. A ConnectionError, so that it is tried again like one."""


@dataclass(frozen=True)
class Patience:
    """How long to go on with a storage that fails, all in seconds. A transfer that gets on starts its deadline anew.

    Between two tries lies a random time from zero to a bound, which begins at `first_delay` and doubles. What fails for
    longer than `tell_after` is told, and again every `tell_again`.
    """

    deadline: float = 120.0
    first_delay: float = 0.5
    longest_delay: float = 16.0
    connect: float = 10.0
    silence: float = 30.0
    tell_after: float = 5.0
    tell_again: float = 30.0


@dataclass(frozen=True)
class Place:
    """An object of a bucket."""

    bucket: str
    name: str

    @property
    def url(self) -> str:
        """The object's URL."""
        return f"gs://{self.bucket}/{self.name}"


def place_of(url: str) -> Place:
    """The bucket and the name in a `gs://` URL."""
    bucket, _, name = url.removeprefix("gs://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise SettingsError(
            f"{url} names no bucket; write gs://bucket/folder, with a bucket of 3 to 222 small letters, digits, "
            "dashes, underscores and dots"
        )
    return Place(bucket, name)


def said(error: Any) -> str:
    """What an error says, in one short line."""
    from google.api_core import exceptions

    while error.args and isinstance(error.args[0], BaseException):  # google.auth puts one into another.
        error = error.args[0]
    if code_of(error) and not hasattr(error, "message"):  # Of a transfer, where the library says less.
        error = exceptions.from_http_response(error.response)
    text = str(getattr(error, "message", None) or (error.args[0] if error.args else error))
    return re.sub(r"\?\S*?=[^\s:]*", "", text.strip() or type(error).__name__).splitlines()[0][:300]


class Waiting:
    """Tells people that the storage fails and is tried again: for all threads of a link, and not too often."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0.0

    def tell(self, host: str, error: BaseException, patience: Patience) -> None:
        """Says why it takes so long."""
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + patience.tell_again
        _LOG.warning("waiting for %s: %s; it is tried for %g s in all", host, said(error), patience.deadline)


@dataclass(frozen=True)
class Link:
    """A client and its session.

    anonymous: the storage is Google's own and there are no credentials.
    granted: what has been asked (`asked`) and answered; a refusal of it will pass, where one at the start is a setting.
    payer: the project that pays for requests, where the credentials name one.
    """

    client: Any
    session: Any
    anonymous: bool
    patience: Patience = field(default_factory=Patience)
    granted: set[tuple[str, ...]] = field(default_factory=set)
    payer: str | None = None
    waiting: Waiting = field(default_factory=Waiting)

    @property
    def timeout(self) -> tuple[float, float]:
        """Seconds to connect, and seconds without a byte, of one request."""
        return self.patience.connect, self.patience.silence

    @property
    def options(self) -> dict[str, Any]:
        """What each call of the library is given."""
        return {"retry": self.retry, "timeout": self.timeout}

    @property
    def retry(self) -> Any:
        """A google.api_core Retry for one call: after 408, 429, 5xx and broken connections, with backoff and full
        jitter. Its `failed` is true once a try has failed.
        """
        from google.api_core.retry import Retry

        patience, begun = self.patience, time.monotonic()

        def on_error(error: BaseException) -> None:
            retry.failed = True
            if time.monotonic() - begun >= patience.tell_after:
                self.waiting.tell(urlsplit(self.client.api_endpoint).netloc, error, patience)

        retry: Any = Retry(
            predicate=self.passes,
            initial=patience.first_delay,
            maximum=patience.longest_delay,
            multiplier=2.0,
            timeout=patience.deadline,
            on_error=on_error,
        )
        retry.failed = False
        return retry

    def passes(self, error: BaseException) -> bool:
        """Returns whether an error may not come again."""
        from google.auth.exceptions import GoogleAuthError, TransportError

        if code := code_of(error):
            return code in _WORTH_ANOTHER_TRY or (code in _REFUSED and _of(error) in self.granted)
        if isinstance(error, GoogleAuthError):
            return isinstance(error, TransportError) or error.retryable or bool(self.granted)
        return _is_broken(error)

    def bucket(self, name: str) -> Any:
        """The library's bucket; asks nothing."""
        return self.client.bucket(name, user_project=self.payer)

    def blob(self, place: Place, version: str | None = None) -> Any:
        """The library's object at `place`, or one version of it; asks nothing."""
        return self.bucket(place.bucket).blob(place.name, generation=int(version) if version else None)


def code_of(error: BaseException | None) -> int | None:
    """The HTTP status that an error of the library tells of, or None."""
    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud.storage.exceptions import InvalidResponse

    if isinstance(error, InvalidResponse):
        return int(error.response.status_code)
    return error.code if isinstance(error, GoogleAPICallError) else None


def asked(request: Any) -> tuple[str, ...]:
    """What a request asks of which bucket: (method, bucket), and "list" where it asks for names."""
    named = re.search(r"/b/([^/?]+)/o(/?)", request.url)
    if named is None:
        return ()
    listing = request.method == "GET" and not named[2]
    return (request.method, named[1], "list") if listing else (request.method, named[1])


def _of(error: Any) -> tuple[str, ...]:
    request = getattr(error.response, "request", None)
    return asked(request) if request is not None else ()


def _is_broken(error: BaseException) -> bool:
    """Whether a connection did not hold."""
    from http.client import HTTPException

    from requests import exceptions as http
    from urllib3.exceptions import HTTPError

    broken = (http.ConnectionError, http.ChunkedEncodingError, http.Timeout, HTTPError, HTTPException)
    return isinstance(error, (ConnectionError, TimeoutError, *broken))


def nobody(endpoint: str | None, patience: Patience, granted: set[tuple[str, ...]]) -> Link:
    """A link without credentials, which is all that an emulator needs."""
    from google.auth.credentials import AnonymousCredentials

    link = _link(AnonymousCredentials(), endpoint, patience, granted)
    address = link.client.api_endpoint  # The library knows of an emulator by STORAGE_EMULATOR_HOST.
    if "://" in address:
        return link
    if not _ADDRESS.fullmatch(address):
        raise SettingsError(f"STORAGE_EMULATOR_HOST = {address} is no address; write http://host:port")
    return _link(AnonymousCredentials(), f"http://{address}", patience, granted)


def connect(url: str, endpoint: str | None, link: Link) -> Link:
    """A link as whoever this process is; link: as nobody.

    Raises:
        SettingsError: the credentials cannot be used, or there are none and Google cannot be reached either.
    """
    if not link.client.api_endpoint.endswith(".googleapis.com"):
        return link
    credentials = _credentials(url, link.patience)
    if credentials is not None:
        return _link(credentials, endpoint, link.patience, link.granted)
    _reach(link.session, link.client.api_endpoint, url)
    return replace(link, anonymous=True)


def _link(credentials: Any, endpoint: str | None, patience: Patience, granted: set[tuple[str, ...]]) -> Link:
    from google.cloud import storage as gcs

    def answered(response: Any, **_: Any) -> None:
        if response.ok and (what := asked(response.request)):
            granted.add(what)
        if not response.ok:
            response.content  # noqa: B018 - what is not read to its end keeps its connection

    session = _session(credentials, patience)
    session.hooks["response"].append(answered)
    options = {"api_endpoint": endpoint} if endpoint else None
    client = gcs.Client(project=None, credentials=credentials, client_options=options, _http=session)
    # For its traces, which are off, the library would ask after the bucket in a thread of its own, with other rights.
    client._bucket_metadata_cache = None  # noqa: SLF001 - there is no other way
    payer = getattr(credentials, "quota_project_id", None)
    return Link(client, session, anonymous=False, patience=patience, granted=granted, payer=payer)


def _session(credentials: Any, patience: Patience) -> Any:
    from google.auth.credentials import AnonymousCredentials
    from google.auth.transport.requests import AuthorizedSession
    from requests.adapters import HTTPAdapter

    anonymous = isinstance(credentials, AnonymousCredentials)  # Which cannot be fetched anew.
    session = AuthorizedSession(
        credentials, refresh_status_codes=() if anonymous else (401,), auth_request=_Asking(patience)
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))
    return session


def _credentials(url: str, patience: Patience) -> Any | None:
    """Those of this machine, or None. The library alone would ask an absent metadata server for many seconds."""
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage as gcs

    asking = _Asking(replace(patience, connect=_METADATA_SERVER), absent=True)
    try:
        return google.auth.default(scopes=gcs.Client.SCOPE, request=asking)[0]
    except DefaultCredentialsError as error:
        message = str(error).partition("\n")[0]
        if message.startswith("Your default credentials were not found"):
            return None
        raise SettingsError(f"{url}: the Google credentials cannot be used: {message}; {LOGIN}") from error
    except (IsADirectoryError, FileNotFoundError, PermissionError, AttributeError) as error:  # JSON that is no object.
        raise SettingsError(f"{url}: the Google credentials cannot be used: {error}; {LOGIN}") from error


@dataclass(frozen=True)
class _Asking:
    """A google.auth request for credentials. What may pass is a Broken, which the library does not try again: we do.

    absent: who cannot be reached, on a machine that is not Google's, is not there.
    """

    patience: Patience
    absent: bool = False

    def __call__(self, url: str, method: str = "GET", body: Any = None, headers: Any = None, **more: Any) -> Any:
        """Asks once."""
        from google.auth.compute_engine._metadata import detect_gce_residency_linux
        from google.auth.exceptions import TransportError
        from google.auth.transport.requests import Request

        more["timeout"] = self.patience.connect, self.patience.silence
        host = urlsplit(url).netloc
        try:
            answer = Request()(url, method, body, headers, **more)
        except TransportError as error:
            if self.absent and _unreachable(error.__cause__) and not detect_gce_residency_linux():
                return _NoAnswer()
            raise Broken(f"no credentials from {host}: {error}") from error
        if answer.status in _WORTH_ANOTHER_TRY:
            raise Broken(f"no credentials from {host}: it answers {answer.status}")
        return answer


@dataclass(frozen=True)
class _NoAnswer:
    status: int = 404
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""


def _unreachable(error: BaseException | None) -> bool:
    """Whether nobody took the connection."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError

    reason = getattr(error.args[0], "reason", None) if error and error.args else None
    return isinstance(reason, (ConnectTimeoutError, NewConnectionError, ProxyError))


def _reach(session: Any, endpoint: str, url: str) -> None:
    """Looking up a name knows no timeout, hence the thread."""
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
