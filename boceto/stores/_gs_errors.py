"""What fails at Google Cloud Storage, in our words: the value, the place and what to do."""

import contextlib
import re
from collections.abc import Iterator
from http import HTTPStatus

from boceto.errors import SettingsError
from boceto.stores import Changed, Unavailable
from boceto.stores._gs_link import LOGIN, Broken, Link, Place, code_of
from boceto.stores._gs_link import said as told


def no_credentials(url: str) -> SettingsError:
    """The error of who is nobody where that does not do."""
    return SettingsError(f"{url}: no Google credentials; {LOGIN}; public buckets can be read without")


@contextlib.contextmanager
def errors(link: Link, place: Place, right: str, *, missing: str = "object") -> Iterator[None]:
    """Turns the library's errors into ours. right: what the block needs; missing: what a 404 means in the block."""
    from google.api_core import exceptions as api
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema, RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except api.NotFound as error:
        raise _not_found(link, place, told(error), missing) from error
    except api.PreconditionFailed as error:
        raise Changed(
            f"{place.url}: another writer was first ({told(error)}); see that only one program writes there, then run "
            "the same command again"
        ) from error
    except (api.Unauthorized, api.Forbidden) as error:
        raise no_credentials(place.url) if link.anonymous else _forbidden(place, told(error), right) from error
    except api.RetryError as error:
        raise _unavailable(place, error.cause, link.patience.deadline, right) from error
    except api.ClientError as error:
        if "requester pays" in told(error).lower():
            raise _not_paid(place, told(error)) from error
        raise SettingsError(f"{place.url} was refused: {told(error)}; check the names") from error
    except GoogleAuthError as error:
        raise SettingsError(f"{place.url}: the Google credentials were refused: {told(error)}; {LOGIN}") from error
    except (InvalidSchema, InvalidURL, MissingSchema) as error:
        raise SettingsError(f"{place.url}: {told(error)}; mend STORAGE_EMULATOR_HOST") from error
    except (api.GoogleAPIError, RequestException, HTTPError, Broken) as error:
        raise _unavailable(place, error, link.patience.deadline, right) from error


def _not_found(link: Link, place: Place, said: str, missing: str) -> Exception:
    if missing == "bucket" or "bucket does not exist" in said:
        if any(place.bucket in asked[1:2] for asked in link.granted):
            return Unavailable(
                f"gs://{place.bucket}: the bucket is gone, it was there a while ago; bring it back, then run the same "
                "command again"
            )
        return SettingsError(f"gs://{place.bucket}: there is no such bucket; check its name or make it")
    return FileNotFoundError(f"{place.url} does not exist")


def _forbidden(place: Place, said: str, right: str) -> SettingsError:
    named = re.search(r"storage\.[a-zA-Z]+\.[a-zA-Z]+", said)
    right = named.group() if named else right
    return SettingsError(
        f"{place.url}: the right {right} is missing ({said}); "
        f"have it granted on gs://{place.bucket}, e.g. with the role storage.objectUser"
    )


def _not_paid(place: Place, said: str) -> SettingsError:
    return SettingsError(
        f"gs://{place.bucket}: who asks pays for the requests ({said}); name a project of yours that pays: "
        "GOOGLE_CLOUD_QUOTA_PROJECT=project"
    )


def _unavailable(place: Place, cause: BaseException | None, deadline: float, right: str) -> Unavailable:
    if code_of(cause) == HTTPStatus.TOO_MANY_REQUESTS:
        why, remedy = "the quota is used up", "ask for less at a time or for a larger quota"
    elif code_of(cause) in {HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED}:
        why, remedy = f"the right {right} was there and is missing", "have it granted again"
    else:
        why, remedy = "no right answer", "check the network"
    said = told(cause) if cause else "silence"
    return Unavailable(f"{place.url}: {why} within {deadline:g} s ({said}); {remedy}, then run the same command again")
