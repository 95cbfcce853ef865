"""One namespace of a cluster, through the `kubernetes` library; objects are JSON in the form of the Kubernetes API."""

import contextlib
import datetime as dt
import functools
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
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from boceto.errors import SettingsError
from k8s.render import MANAGED, MANAGER, Object
from k8s.settings import check_namespace

TIMEOUT = (5.0, 30.0)  # Seconds to connect, and for an answer.
ACCESS, REVIEW = "authorization.k8s.io/v1", "SelfSubjectAccessReview"
MERGE = "application/merge-patch+json"
# The library keeps the kinds of a cluster in a file that every user of the machine may write, and trusts that file
# later. No file can exist at this path, so each command asks the cluster.
NO_CACHE = "/dev/null/none"
# A line of a log: a time in the node's own zone, and the text.
STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) (.*)", re.DOTALL)


class Missing(SettingsError):  # noqa: N818 - as in boceto.storage
    """The object does not exist."""


class Unreachable(SettingsError):  # noqa: N818 - as above
    """The cluster does not answer."""


class UnknownKind(SettingsError):  # noqa: N818 - as above
    """The cluster does not know this kind of objects."""


class Refused(SettingsError):  # noqa: N818 - as above
    """The cluster cannot take the object as it is: a field is wrong, cannot be changed, or belongs to others."""


class OverQuota(SettingsError):  # noqa: N818 - as above
    """The quota of the namespace is full."""


class _Client(DynamicClient):
    """The library's client, with a time limit for each request and errors in one line."""

    def __init__(self, api: Any, namespace: str) -> None:
        self._host, self._namespace = api.configuration.host, namespace
        super().__init__(api, cache_file=NO_CACHE)

    def request(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Sends one request; returns its answer.

        Raises:
            SettingsError: the cluster refuses the request, or does not answer.
        """
        try:
            answer = super().request(method, path, body, _request_timeout=TIMEOUT, **more)
        except ApiException as error:
            raise self._explained(error, f"{method.upper()} {path.rpartition('/')[2]}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            why = re.sub(r"\[Errno \d+\] ", "", str(reason).rpartition(": ")[2])
            raise Unreachable(
                f"the cluster at {self._host} does not answer ({why}); is it up, and is the context the right one?"
            ) from error
        if isinstance(answer, str):
            raise Unreachable(f"the server at {self._host} answers with text that is no JSON; is it a cluster?")
        return answer

    def _explained(self, error: ApiException, request: str) -> SettingsError:
        try:
            reason = json.loads(error.body)["message"]
        except (ValueError, KeyError, TypeError):
            reason = error.reason
        reason, where, status = " ".join(str(reason).split()), f"namespace {self._namespace}", error.status
        if status == 404:  # noqa: PLR2004 - HTTP's own numbers
            return Missing(f"{where}: {reason}")
        if status == 401 or "system:anonymous" in reason:  # noqa: PLR2004 - as above
            return SettingsError(_no_login(self._host, reason))
        if status == 403 and "exceeded quota" in reason:  # noqa: PLR2004 - as above
            advice = "remove Jobs that are done, or ask for a larger quota"
            return OverQuota(f"{where}: its quota is full ({reason}); {advice}")
        if status == 403:  # noqa: PLR2004 - as above
            advice = "ask for the right, or give another --namespace or --context"
            return SettingsError(f"{where}: not allowed ({reason}); {advice}")
        if status == 429 or status >= 500:  # noqa: PLR2004 - as above
            return Unreachable(f"the cluster at {self._host} answers {status}: {reason}; try again")
        return Refused(f"{where}: {request} is refused: {reason}")


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, context: str, namespace: str) -> None:
        """Reads the kubeconfig, without a request to the cluster.

        Raises:
            SettingsError: there is no kubeconfig, or it has no such context.
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
            with _logged_errors() as login:
                config.load_kube_config(context=chosen["name"], client_configuration=settings)
            if login:
                raise SettingsError(_no_login(settings.host, "; ".join(login)))
            if not settings.host.startswith(("https://", "http://")):
                raise ValueError(f"the server {settings.host!r} is no https://…")
        except (config.ConfigException, yaml.YAMLError, OSError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise SettingsError(f"no usable kubeconfig: {reason}; see `kubectl config get-contexts`") from error
        settings.retries = 0
        if not settings.verify_ssl:  # The author of the kubeconfig knows it.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self.host = settings.host
        self.namespace = check_namespace(namespace or chosen["context"].get("namespace") or "default")
        self._api = client.ApiClient(settings)

    @functools.cached_property
    def _client(self) -> _Client:
        return _Client(self._api, self.namespace)

    def kind(self, api: str, kind: str) -> Any:
        """Returns the cluster's description of a kind: `name` is its plural, `namespaced`, `group_version`.

        api: `v1`, `GROUP/VERSION`, or `GROUP/` for the version that the cluster prefers.

        Raises:
            UnknownKind: the cluster does not know it.
        """
        group, _, version = api.rpartition("/")
        chosen = {"api_version": version} if version else {"preferred": True}
        try:  # Without the prefix, the library would ask for the kinds of all groups.
            return self._client.resources.get(prefix="apis" if group else "api", group=group, kind=kind, **chosen)
        except (ResourceNotFoundError, Missing) as error:
            raise UnknownKind(
                f"the cluster knows no {kind} ({api}); install the operator that brings it, or leave it out of the "
                "overlay (components/monitoring has PodMonitor and PrometheusRule)"
            ) from error

    def get(self, api: str, kind: str, name: str) -> Object:
        """Reads one object.

        Raises:
            Missing: it does not exist.
        """
        return self._request("get", api, kind, name)

    def find(self, api: str, kind: str, name: str) -> Object | None:
        """Reads one object; None where it does not exist."""
        with contextlib.suppress(Missing):
            return self.get(api, kind, name)
        return None

    def list(self, api: str, kind: str, labels: str = "") -> Sequence[Object]:
        """Reads all objects of a kind that have the labels."""
        found = self._request("get", api, kind, label_selector=labels or None)["items"]
        # The API leaves version and kind out of lists.
        version = self.kind(api, kind).group_version
        return [{**each, "apiVersion": version, "kind": kind} for each in found]

    def list_readable(self, api: str, kind: str, labels: str = "") -> Sequence[Object]:
        """Does the same as `list`, but returns no object where the user may not read them."""
        try:
            return self.list(api, kind, labels)
        except Unreachable:
            raise
        except SettingsError:
            return []

    def may(self, verb: str, group: str, resource: str, *, namespaced: bool) -> bool:
        """Returns whether the user may do something with a kind of objects; resource: `pods`, or `pods/log`."""
        resource, _, subresource = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": resource, "subresource": subresource}
        if namespaced:
            attributes["namespace"] = self.namespace
        body = {"apiVersion": ACCESS, "kind": REVIEW, "spec": {"resourceAttributes": attributes}}
        answer = self._client.create(self.kind(ACCESS, REVIEW), body, serializer=_as_it_is)
        return bool(answer["status"]["allowed"])

    def apply(self, wanted: Object, *, dry_run: bool = False) -> Object:
        """Makes an object, or changes the fields of it that are ours, by server-side apply; returns the result.

        dry_run: nothing is changed, and the cluster answers with the would-be result.
        """
        return self._request(
            "server_side_apply",
            wanted["apiVersion"],
            wanted["kind"],
            wanted["metadata"]["name"],
            body=wanted,
            field_manager=MANAGER,
            dry_run="All" if dry_run else None,
            query_params=[("fieldValidation", "Strict")],
        )

    def merge(self, found: Object, change: Mapping[str, Any]) -> Object:
        """Changes some fields of an object that exists."""
        return self._request(
            "patch", found["apiVersion"], found["kind"], found["metadata"]["name"], body=change, content_type=MERGE
        )

    def delete(self, found: Object) -> None:
        """Removes this very object, after the objects that it owns; does nothing where it is gone."""
        body = {"preconditions": {"uid": found["metadata"]["uid"]}, "propagationPolicy": "Foreground"}
        with contextlib.suppress(Missing):
            self._request("delete", found["apiVersion"], found["kind"], found["metadata"]["name"], body=body)

    def log(self, pod: str, container: str, since: str = "") -> Sequence[tuple[str, str]]:
        """Reads a container's log: (time, text) of each line, or of those after the line of the time `since`.

        Raises:
            SettingsError: there is no log (yet).
        """
        query = [("container", container), ("timestamps", "true")]
        if since:  # The API takes whole seconds.
            second = dt.datetime.fromisoformat(since).astimezone(dt.UTC)
            query.append(("sinceTime", second.strftime("%Y-%m-%dT%H:%M:%SZ")))
        logs, accept = self.kind("v1", "Pod").subresources["log"], {"Accept": "*/*"}
        answer = logs.get(pod, self.namespace, query_params=query, header_params=accept, serialize=False)
        # Lines without a time are the node's, not the program's; and only \n ends a line.
        found = [match.groups() for line in answer.data.split(b"\n") if (match := STAMPED.fullmatch(line))]
        lines = [(time.decode(), text.decode(errors="replace").rstrip("\r")) for time, text in found]
        known = [number for number, (time, _) in enumerate(lines, 1) if time == since]
        return lines[known[-1] if known else 0 :]

    def _request(self, verb: str, api: str, kind: str, name: str = "", **more: Any) -> Any:
        resource = self.kind(api, kind)
        if name:  # The library puts the name into the path as it is.
            more["name"] = quote(name, safe="")
        return getattr(self._client, verb)(resource, namespace=self.namespace, serializer=_as_it_is, **more)


def _as_it_is(_: Any, answer: Any) -> Any:
    """Keeps the library from wrapping an answer."""
    return answer


def _no_login(host: str, why: str) -> str:
    return f"the login to {host} has expired or is missing ({why}); log in as for kubectl"


@contextlib.contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """Collects the errors that the root logger gets in the block, and hides everything that it gets.

    The library logs there why the login command of a kubeconfig has failed.
    """
    lines: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            lines.append(" ".join(record.getMessage().split()))
        return False

    logger = logging.getLogger()
    logger.addFilter(collect)
    try:
        yield lines
    finally:
        logger.removeFilter(collect)


def is_ours(found: Object) -> bool:
    """Returns whether `boceto submit` made an object."""
    return bool(found["metadata"].get("labels", {}).get(MANAGED) == MANAGER)
