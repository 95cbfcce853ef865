"""Translates errors of Google Cloud Storage into our errors: the value, the place and the remedy."""

import contextlib
import re
from collections.abc import Iterator
from http import HTTPStatus

from boceto.errors import SettingsError
from boceto.stores import Changed, Unavailable
from boceto.stores._gs_connection import LOGIN, Connection, NoCredentialsAnswer, ObjectName, code_of, message_of


def no_credentials(url: str) -> SettingsError:
    """Returns the error of an operation that needs credentials, if there are none."""
    return SettingsError(f"{url}: no Google credentials; {LOGIN}; public buckets can be read without credentials")


@contextlib.contextmanager
def errors(connection: Connection, target: ObjectName, right: str, *, missing: str = "object") -> Iterator[None]:
    """Translates the library's errors in the block. right and missing: see `gs.Store._call`."""
    from google.api_core import exceptions as api
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema, RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except api.NotFound as error:
        raise _not_found(connection, target, message_of(error), missing) from error
    except api.PreconditionFailed as error:
        raise Changed(
            f"{target.url}: another writer was first ({message_of(error)}); let only one program write there, then "
            "run the same command again"
        ) from error
    except (api.Unauthorized, api.Forbidden) as error:
        raise (
            no_credentials(target.url) if connection.anonymous else _forbidden(target, message_of(error), right)
        ) from error
    except api.RetryError as error:
        raise _unavailable(target, error.cause, connection.limits.deadline, right) from error
    except api.ClientError as error:
        if "requester pays" in message_of(error).lower():
            raise _not_paid(target, message_of(error)) from error
        raise SettingsError(f"{target.url} was refused: {message_of(error)}; check the names") from error
    except GoogleAuthError as error:
        raise SettingsError(
            f"{target.url}: the Google credentials were refused: {message_of(error)}; {LOGIN}"
        ) from error
    except (InvalidSchema, InvalidURL, MissingSchema) as error:
        raise SettingsError(f"{target.url}: {message_of(error)}; mend STORAGE_EMULATOR_HOST") from error
    except (api.GoogleAPIError, RequestException, HTTPError, NoCredentialsAnswer) as error:
        raise _unavailable(target, error, connection.limits.deadline, right) from error


def _not_found(connection: Connection, target: ObjectName, message: str, missing: str) -> Exception:
    if missing == "bucket" or "bucket does not exist" in message:
        if any(target.bucket in kind[1:2] for kind in connection.granted):
            return Unavailable(
                f"gs://{target.bucket}: the bucket existed and is gone; make it again, then run the same command again"
            )
        return SettingsError(f"gs://{target.bucket}: there is no such bucket; check its name or make it")
    return FileNotFoundError(f"{target.url} does not exist")


def _forbidden(target: ObjectName, message: str, right: str) -> SettingsError:
    named = re.search(r"storage\.[a-zA-Z]+\.[a-zA-Z]+", message)
    right = named.group() if named else right
    return SettingsError(
        f"{target.url}: the right {right} is missing ({message}); "
        f"have it granted on gs://{target.bucket}, e.g. with the role storage.objectUser"
    )


def _not_paid(target: ObjectName, message: str) -> SettingsError:
    return SettingsError(
        f"gs://{target.bucket}: the reader pays for the requests ({message}); name a project that pays: "
        "GOOGLE_CLOUD_QUOTA_PROJECT=project"
    )


def _unavailable(target: ObjectName, cause: BaseException | None, deadline: float, right: str) -> Unavailable:
    if code_of(cause) == HTTPStatus.TOO_MANY_REQUESTS:
        why, remedy = "the quota is used up", "ask for less at a time or for a larger quota"
    elif code_of(cause) in {HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED}:
        why, remedy = f"the right {right} was granted before and is missing now", "have it granted again"
    else:
        why, remedy = "no correct answer", "check the network"
    message = message_of(cause) if cause else "silence"
    return Unavailable(
        f"{target.url}: {why} within {deadline:g} s ({message}); {remedy}, then run the same command again"
    )
