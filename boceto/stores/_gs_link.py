"""How a process speaks to Google Cloud Storage: who it is, one session, retries, and what failed in words.

Metadata goes through the library's client. Bytes go over the same session by hand, after the JSON API's reference
(https://cloud.google.com/storage/docs/json_api): the library reads eight kilobytes at a time, and sends what is larger
than eight megabytes in several requests, which a conditional write must not be.
"""

import contextlib
import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from boceto.errors import SettingsError
from boceto.stores import Unavailable

THREADS = 8
_METADATA_SERVER = 0.7  # seconds; inside Google's cloud it answers in milliseconds
_FIRST_CONTACT = 2.0  # seconds
_LOGIN = "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"

# Only the adapter's own line tells that there are no credentials.
logging.getLogger("google.auth").addHandler(logging.NullHandler())


class Broken(ConnectionError):  # noqa: N818 - it says what the bytes are
    """What arrived is not what was sent. A ConnectionError, so that it is tried again like one."""


@dataclass(frozen=True)
class Patience:
    """How long to go on with a storage that fails, all in seconds. A transfer that gets on starts its deadline anew.

    Between two tries lies a random time from zero to a bound, which begins at `first_delay` and doubles.
    """

    deadline: float = 120.0
    first_delay: float = 0.5
    longest_delay: float = 16.0
    connect: float = 10.0
    silence: float = 30.0


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
    if not bucket:
        raise SettingsError(f"{url} names no bucket; write gs://bucket/folder")
    return Place(bucket, name)


@dataclass(frozen=True)
class Link:
    """A client and its session. anonymous: the storage is Google's own and there are no credentials."""

    client: Any
    session: Any
    anonymous: bool
    patience: Patience = field(default_factory=Patience)

    @property
    def timeout(self) -> tuple[float, float]:
        """Seconds to connect, and seconds without a byte, of one request."""
        return self.patience.connect, self.patience.silence

    @property
    def retry(self) -> Any:
        """A decorator that calls again after 408, 429, 5xx and broken connections, with backoff and full jitter."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        patience = self.patience
        return DEFAULT_RETRY.with_timeout(patience.deadline).with_delay(
            initial=patience.first_delay, maximum=patience.longest_delay, multiplier=2.0
        )

    def blob(self, place: Place) -> Any:
        """The library's object at `place`; asks nothing."""
        return self.client.bucket(place.bucket).blob(place.name)

    def get(self, place: Place, bytes_range: str | None, generation: str | None) -> Any:
        """One request for an object's bytes as they are stored: an open response, whose `raw` is to be read."""
        url = f"{self.client.api_endpoint}/download/storage/v1/b/{place.bucket}/o/{quote(place.name, safe='')}"
        headers = {"accept-encoding": "gzip"}  # Without it, what is stored compressed would arrive otherwise.
        if bytes_range:
            headers["range"] = f"bytes={bytes_range}"
        params = {"alt": "media"} | ({"generation": generation} if generation else {})
        return _checked(self.session.get(url, params=params, headers=headers, stream=True, timeout=self.timeout))

    def post(self, bucket: str, body: Any, content_type: str, params: dict[str, str]) -> dict[str, Any]:
        """One upload in one request; returns what the storage says of the new object."""
        url = f"{self.client.api_endpoint}/upload/storage/v1/b/{bucket}/o"
        params = {"uploadType": "multipart", **params}
        response = self.session.post(
            url, params=params, data=body, headers={"content-type": content_type}, timeout=self.timeout
        )
        found: dict[str, Any] = _checked(response).json()
        return found


def _checked(response: Any) -> Any:
    from google.api_core import exceptions

    if not response.ok:
        with response:
            raise exceptions.from_http_response(response)
    return response


def connect(url: str, endpoint: str | None, patience: Patience) -> Link:
    """A link as whoever this process is.

    Raises:
        SettingsError: the credentials cannot be used, or there are none and Google cannot be reached either.
    """
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage as gcs

    options = {"api_endpoint": endpoint} if endpoint else None
    nobody = AnonymousCredentials()
    # The library knows of the emulator (STORAGE_EMULATOR_HOST); who asks for it is told by the endpoint.
    client = gcs.Client(project=None, credentials=nobody, client_options=options, _http=_session(nobody))
    if not client.api_endpoint.endswith(".googleapis.com"):
        return Link(client, client._http, anonymous=False, patience=patience)  # noqa: SLF001 - it is ours
    credentials = _credentials(url)
    if credentials is None:
        _reach(client._http, client.api_endpoint, url)  # noqa: SLF001 - it is ours
        return Link(client, client._http, anonymous=True, patience=patience)  # noqa: SLF001 - it is ours
    session = _session(credentials)
    return Link(gcs.Client(project=None, credentials=credentials, _http=session), session, False, patience)


def _session(credentials: Any) -> Any:
    from google.auth.transport.requests import AuthorizedSession
    from requests.adapters import HTTPAdapter

    session = AuthorizedSession(credentials)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=4 * THREADS))
    return session


def _credentials(url: str) -> Any | None:
    """Those of this machine, or None. The library alone would ask an absent metadata server for many seconds."""
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage as gcs

    try:
        return google.auth.default(scopes=gcs.Client.SCOPE, request=_ask_briefly)[0]
    except DefaultCredentialsError as error:
        message = str(error).partition("\n")[0]
        if message.startswith("Your default credentials were not found"):
            return None
        raise SettingsError(f"{url}: the Google credentials cannot be used: {message}; {_LOGIN}") from error


def _ask_briefly(url: str, method: str = "GET", headers: Any = None, **_: Any) -> Any:
    """A google.auth request whose silence is an answer: not found."""
    from google.auth.exceptions import TransportError
    from google.auth.transport.requests import Request

    try:
        return Request()(url, method, headers=headers, timeout=_METADATA_SERVER)
    except TransportError:
        return _NoAnswer()


@dataclass(frozen=True)
class _NoAnswer:
    status: int = 404
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""


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
        raise SettingsError(
            f"{url}: no Google credentials, and {endpoint} does not answer; check the network, {_LOGIN}"
        )


def no_credentials(url: str) -> SettingsError:
    """The error of who is nobody where that does not do."""
    return SettingsError(f"{url}: no Google credentials; {_LOGIN}; public buckets can be read without")


@contextlib.contextmanager
def errors(link: Link, place: Place, right: str, *, missing: str = "object") -> Iterator[None]:
    """Turns the library's errors into ours. right: what the block needs; missing: what a 404 means in the block."""
    from google.api_core import exceptions as api
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except api.NotFound as error:
        raise _not_found(place, _said(error), missing) from error
    except (api.Unauthorized, api.Forbidden) as error:
        raise no_credentials(place.url) if link.anonymous else _forbidden(place, _said(error), right) from error
    except api.RetryError as error:
        raise _unavailable(place, error.cause, link.patience.deadline) from error
    except api.ClientError as error:
        raise SettingsError(f"{place.url} was refused: {_said(error)}; check the names") from error
    except GoogleAuthError as error:
        raise SettingsError(f"{place.url}: the Google credentials were refused: {_said(error)}; {_LOGIN}") from error
    except (api.GoogleAPIError, RequestException, HTTPError, Broken) as error:
        raise _unavailable(place, error, link.patience.deadline) from error


def _not_found(place: Place, said: str, missing: str) -> Exception:
    if missing == "bucket" or "bucket does not exist" in said:
        return SettingsError(f"gs://{place.bucket}: there is no such bucket; check its name or make it")
    return FileNotFoundError(f"{place.url} does not exist")


def _forbidden(place: Place, said: str, right: str) -> SettingsError:
    named = re.search(r"storage\.[a-zA-Z]+\.[a-zA-Z]+", said)
    right = named.group() if named else right
    return SettingsError(
        f"{place.url}: the right {right} is missing ({said}); "
        f"have it granted on gs://{place.bucket}, e.g. with the role storage.objectUser"
    )


def _unavailable(place: Place, cause: BaseException | None, deadline: float) -> Unavailable:
    from google.api_core.exceptions import TooManyRequests

    if isinstance(cause, TooManyRequests):
        why, remedy = "the quota is used up", "ask for less at a time or for a larger quota"
    else:
        why, remedy = "no right answer", "check the network"
    said = _said(cause) if cause else "silence"
    return Unavailable(f"{place.url}: {why} within {deadline:g} s ({said}); {remedy}, then run the same command again")


def _said(error: BaseException) -> str:
    """What an error says, in one short line."""
    text = str(getattr(error, "message", None) or error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
