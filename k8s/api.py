"""The few verbs that submission needs of a cluster, on the `kubernetes` client; objects are JSON as the API says it."""

import contextlib
import datetime as dt
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from boceto.errors import SettingsError
from k8s.render import MANAGED, MANAGER, Object
from k8s.settings import check_namespace

TIMEOUT = (5.0, 30.0)  # Seconds to connect, and for an answer.
ACCESS = "authorization.k8s.io"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
# A time in the node's own zone, and what was said then.
STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) (.*)", re.DOTALL)


class Missing(SettingsError):  # noqa: N818 - as in boceto.storage
    """There is no such object."""


class Unreachable(SettingsError):  # noqa: N818 - as above
    """Nobody answers."""


class Unknown(SettingsError):  # noqa: N818 - as above
    """The cluster has no such kind of objects."""


class OverQuota(SettingsError):  # noqa: N818 - as above
    """The namespace has no room for it."""


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, context: str, namespace: str) -> None:
        """Reads the kubeconfig.

        Raises:
            SettingsError: there is none, or no such context in it.
        """
        settings = client.Configuration()
        try:
            contexts, current = config.list_kube_config_contexts()
            names = sorted(each["name"] for each in contexts)
            if context and context not in names:
                raise SettingsError(
                    f"submit.context = {context!r} is not in the kubeconfig; the contexts are {', '.join(names)}"
                )
            chosen = next(each for each in contexts if each["name"] == context) if context else current
            with _heard() as login:
                config.load_kube_config(context=chosen["name"], client_configuration=settings)
            if login:
                raise SettingsError(_no_login(settings.host, "; ".join(login)))
            if not settings.host.startswith(("https://", "http://")):
                raise ValueError(f"the server {settings.host!r} is no https://…")
        except (config.ConfigException, yaml.YAMLError, OSError, KeyError, TypeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise SettingsError(f"no usable kubeconfig: {said}; see `kubectl config get-contexts`") from error
        settings.retries = 0
        if not settings.verify_ssl:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # Who wrote the kubeconfig knows.
        self.host = settings.host
        self.namespace = check_namespace(namespace or chosen["context"].get("namespace") or "default")
        self._client = client.ApiClient(settings)

    def get(self, api: str, kind: str, name: str) -> Object:
        """One object.

        Raises:
            Missing: there is none.
        """
        found: Object = self._call("GET", self._path(api, kind, name))
        return found

    def find(self, api: str, kind: str, name: str) -> Object | None:
        """One object, or None where there is none."""
        with contextlib.suppress(Missing):
            return self.get(api, kind, name)
        return None

    def list(self, api: str, kind: str, *, labels: str = "", fields: str = "") -> Sequence[Object]:
        """All objects that the selectors choose."""
        query = [("labelSelector", labels), ("fieldSelector", fields)]
        items: Sequence[Object] = self._call("GET", self._path(api, kind), query=query)["items"]
        return items

    def version(self, group: str) -> str:
        """`group/v1`: the version of a group of kinds that the cluster prefers.

        Raises:
            Unknown: it knows no such group.
        """
        return str(self._call("GET", f"/apis/{group}")["preferredVersion"]["groupVersion"])

    def rules(self) -> Sequence[Object]:
        """What the Roles here give this user."""
        body = {"apiVersion": f"{ACCESS}/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": self.namespace}}
        answer = self._call("POST", f"/apis/{ACCESS}/v1/selfsubjectrulesreviews", body=body)
        rules: Sequence[Object] = answer["status"].get("resourceRules") or []
        return rules

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Whether this user may do something with a kind of objects here."""
        attributes = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource}
        body = {
            "apiVersion": f"{ACCESS}/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self._call("POST", f"/apis/{ACCESS}/v1/selfsubjectaccessreviews", body=body)
        return bool(answer["status"]["allowed"])

    def list_readable(self, api: str, kind: str, *, labels: str = "") -> Sequence[Object]:
        """All objects that the selector chooses; none where they may not be read."""
        try:
            return self.list(api, kind, labels=labels)
        except Unreachable:
            raise
        except SettingsError:
            return []

    def apply(self, wanted: Mapping[str, Any]) -> Object:
        """Server-side apply: makes an object, or changes what is ours of it."""
        return self._apply(wanted)

    def rehearse(self, wanted: Mapping[str, Any]) -> Object:
        """What `apply` would make, as the cluster says; nothing is made."""
        return self._apply(wanted, ("dryRun", "All"))

    def _apply(self, wanted: Mapping[str, Any], *more: tuple[str, str]) -> Object:
        path = self._path(wanted["apiVersion"], wanted["kind"], wanted["metadata"]["name"])
        query = [("fieldManager", MANAGER), ("fieldValidation", "Strict"), *more]
        made: Object = self._call("PATCH", path, body=wanted, query=query, content=APPLY)
        return made

    def merge(self, api: str, kind: str, name: str, change: Mapping[str, Any]) -> Object:
        """Changes some fields of an object."""
        made: Object = self._call("PATCH", self._path(api, kind, name), body=change, content=MERGE)
        return made

    def delete(self, found: Object) -> None:
        """Removes just this object, what it owns first; nothing happens where it is gone."""
        uid = {"preconditions": {"uid": found["metadata"]["uid"]}, "propagationPolicy": "Foreground"}
        path = self._path(found["apiVersion"], found["kind"], found["metadata"]["name"])
        with contextlib.suppress(Missing):
            self._call("DELETE", path, body=uid)

    def log(self, pod: str, container: str, since: str = "") -> Sequence[tuple[str, str]]:
        """The lines of a container's log behind the time `since`, each behind its own time.

        Raises:
            SettingsError: it cannot be had (yet).
        """
        query, known = [("container", container), ("timestamps", "true")], _moment(since) if since else None
        if known:  # In whole seconds: what came in the same one is left out below.
            query.append(("sinceTime", known[0].strftime("%Y-%m-%dT%H:%M:%SZ")))
        answer = self._call("GET", self._path("v1", "Pod", pod) + "/log", query=query, raw=True)
        # Only what bears a time is the program's; and only \n ends a line, whatever else is in it.
        lines = [found.groups() for line in answer.data.split(b"\n") if (found := STAMPED.fullmatch(line))]
        told = [(time.decode(), text.decode(errors="replace").rstrip("\r")) for time, text in lines]
        return [(time, text) for time, text in told if not known or _moment(time) > known]

    def _path(self, api: str, kind: str, name: str = "") -> str:
        root, plural = "/api/v1" if api == "v1" else f"/apis/{api}", plural_of(kind)
        parts = [plural, name] if kind == "Namespace" else ["namespaces", self.namespace, plural, name]
        return "/".join([root, *(quote(part, safe="") for part in parts if part)])

    def _call(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Sequence[tuple[str, str]] = (),
        content: str = "application/json",
        raw: bool = False,
    ) -> Any:
        try:
            return self._client.call_api(
                path,
                method,
                query_params=[(name, value) for name, value in query if value],
                header_params={"Accept": "*/*" if raw else "application/json", "Content-Type": content},
                body=body,
                response_type=None if raw else "object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=not raw,
                _request_timeout=TIMEOUT,
            )
        except ApiException as error:
            raise self._explained(error, method, path) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            why = re.sub(r"\[Errno \d+\] ", "", str(reason).rpartition(": ")[2])
            raise Unreachable(
                f"the cluster at {self.host} does not answer ({why}); is it up, and is the context the right one?"
            ) from error

    def _explained(self, error: ApiException, method: str, path: str) -> SettingsError:
        try:
            said = json.loads(error.body)["message"]
        except (ValueError, KeyError, TypeError):
            said = error.reason
        said = " ".join(str(said).split())
        where = f"namespace {self.namespace}"
        if error.status == 404:  # noqa: PLR2004 - HTTP's own numbers
            unknown = said in ("Not Found", "the server could not find the requested resource")
            return (Unknown if unknown else Missing)(f"{where}: {said}")
        if error.status == 401 or "system:anonymous" in said:  # noqa: PLR2004 - as above
            return SettingsError(_no_login(self.host, said))
        if error.status == 403 and "exceeded quota" in said:  # noqa: PLR2004 - as above
            return OverQuota(
                f"{where}: its quota is full ({said}); remove Jobs that are done, or ask for a larger quota"
            )
        if error.status == 403:  # noqa: PLR2004 - as above
            return SettingsError(
                f"{where}: not allowed ({said}); ask for the right, or give another --namespace or --context"
            )
        if error.status == 429 or error.status >= 500:  # noqa: PLR2004 - as above
            return Unreachable(f"the cluster at {self.host} answers {error.status}: {said}; try again")
        return SettingsError(f"namespace {self.namespace}: {method} {path.rpartition('/')[2]} is refused: {said}")


def plural_of(kind: str) -> str:
    """What the API calls the objects of a kind."""
    return re.sub("y$", "ie", kind.lower()) + "s"


def _no_login(host: str, why: str) -> str:
    return f"the login to {host} has expired or is missing ({why}); log in as for kubectl"


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """-> what the root logger is told in the block, which it does not show: why a login's command gave nothing."""
    lines: list[str] = []

    def hear(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            lines.append(" ".join(record.getMessage().split()))
        return False

    logger = logging.getLogger()
    logger.addFilter(hear)
    try:
        yield lines
    finally:
        logger.removeFilter(hear)


def _moment(time: str) -> tuple[dt.datetime, str]:
    """A time of a log in a form that sorts: its second in UTC, and the digits of its fraction, as many as it has."""
    whole, zone = time[:19], time[19:].lstrip(".0123456789")
    fraction = time[19 : len(time) - len(zone)].lstrip(".")
    return dt.datetime.fromisoformat(whole + zone).astimezone(dt.UTC), fraction.ljust(9, "0")


def is_ours(found: Object) -> bool:
    """Whether `boceto submit` made an object."""
    return bool(found["metadata"].get("labels", {}).get(MANAGED) == MANAGER)


def fits(there: Any, wanted: Any) -> bool:
    """Whether an object already is what is wanted, whatever else it has."""
    if isinstance(wanted, Mapping):
        here = there or {}  # The API leaves out what is empty.
        return isinstance(here, Mapping) and all(fits(here.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(there, list) and len(there) == len(wanted) and all(map(fits, there, wanted))
    return bool(there == wanted)
