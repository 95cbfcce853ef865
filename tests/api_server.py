"""An API server of Kubernetes as far as `boceto submit` and the trainer speak with it: objects by path, over HTTP.

No controller runs but the garbage collector: a test plays the cluster by changing `objects`.
"""

import contextlib
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

# The kinds of each group and version. Those of ClusterRole, ClusterRoleBinding and Namespace are in no namespace.
KINDS = {
    "v1": {
        "ConfigMap": "configmaps",
        "Event": "events",
        "Namespace": "namespaces",
        "PersistentVolumeClaim": "persistentvolumeclaims",
        "Pod": "pods",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
    },
    "apps/v1": {"Deployment": "deployments"},
    "authorization.k8s.io/v1": {
        "SelfSubjectAccessReview": "selfsubjectaccessreviews",
    },
    "batch/v1": {"Job": "jobs"},
    "kueue.x-k8s.io/v1alpha1": {"LocalQueue": "localqueues"},
    "kueue.x-k8s.io/v1beta1": {"LocalQueue": "localqueues", "Workload": "workloads"},
    "monitoring.coreos.com/v1": {"PodMonitor": "podmonitors", "PrometheusRule": "prometheusrules"},
    "networking.k8s.io/v1": {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"},
    "rbac.authorization.k8s.io/v1": {
        "ClusterRole": "clusterroles",
        "ClusterRoleBinding": "clusterrolebindings",
        "Role": "roles",
        "RoleBinding": "rolebindings",
    },
}
CLUSTER_SCOPED = ("ClusterRole", "ClusterRoleBinding", "Namespace", "SelfSubjectAccessReview")


def merged(there, change):
    """JSON merge patch, RFC 7386."""
    if not isinstance(change, dict):
        return change
    result = dict(there) if isinstance(there, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def allows(rules, verb, group, resource):
    """Whether rules of a Role allow a verb on a kind of objects."""
    wanted = (("verbs", verb), ("apiGroups", group), ("resources", resource))
    return any(all(value in rule[part] or "*" in rule[part] for part, value in wanted) for rule in rules)


class ApiServer(ThreadingHTTPServer):
    """objects: by path. requests: (method, path, headers, body).

    forbidden: a word of the paths that are refused; refused: (method, a word of the paths, status, message).
    absent: a word of the paths that the server does not know. namespaces: those that exist. read_only: whether
    every change is forbidden. rights: the rules of a user's Roles. broken: how many answers from now on are 503.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects = {}
        self.logs = {}
        self.requests = []
        self.forbidden = None
        self.read_only = False
        self.broken = 0
        self.absent = None
        self.namespaces = ["here"]
        self.refused = None
        self.rights = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, path, found):
        metadata = {"uid": uuid.uuid4().hex, "creationTimestamp": "2026-01-02T03:04:05Z", **found["metadata"]}
        self.objects[path] = {**found, "metadata": metadata}

    def collect(self, uid):
        """What the garbage collector does where an owner is gone."""
        for path, found in list(self.objects.items()):
            owners = found["metadata"].get("ownerReferences", [])
            left = [each for each in owners if each["uid"] != uid]
            if owners and not left:
                del self.objects[path]
            elif len(left) < len(owners):
                found["metadata"]["ownerReferences"] = left

    def of_kind(self, kind):
        return [found for found in self.objects.values() if found["kind"] == kind]


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def _answer(self, code, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _begin(self):
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path, self.headers, body))
        if self.server.broken:
            self.server.broken -= 1
            self._answer(503, {"message": "not now"})
            return None
        refused = self.server.read_only and self.command not in ("GET", "POST")
        if refused or (self.server.forbidden and self.server.forbidden in parts.path):
            self._answer(403, {"message": f"{parts.path} is forbidden"})
            return None
        if self.server.absent and self.server.absent in parts.path:
            self._answer(404, b"404 page not found\n")
            return None
        method, word, code, said = self.server.refused or ("", "", 0, "")
        if method == self.command and word in parts.path:
            self._answer(code, {"message": said})
            return None
        return parts.path, parse_qs(parts.query), json.loads(body) if body else None

    def do_GET(self):
        if not (asked := self._begin()):
            return
        path, query, _ = asked
        if found := self._discovery(path):
            self._answer(200, found)
        elif path.endswith("/log"):
            self._answer(200, self.server.logs.get(path.split("/")[-2], b""))
        elif path in self.server.objects:
            self._answer(200, self.server.objects[path])
        elif path.removeprefix("/api/v1/namespaces/") in self.server.namespaces:
            self._answer(200, {"kind": "Namespace"})
        elif path.rpartition("/")[2] in [plural for kinds in KINDS.values() for plural in kinds.values()]:
            self._answer(200, {"items": self._chosen(path, query.get("labelSelector", [""])[0])})
        else:
            self._answer(404, {"message": f"{path.rpartition('/')[2]} not found"})

    def _discovery(self, path):
        """What the server says of itself, as a real one does: its groups, and the kinds of a version."""
        absent = self.server.absent or " "
        if path == "/version":
            return {"gitVersion": "v1.34.0"}
        if path == "/apis":
            groups = {}
            for name in KINDS:
                group, _, version = name.rpartition("/")
                if group and absent not in group:
                    groups.setdefault(group, []).append({"groupVersion": name, "version": version})
            listed = [{"name": name, "versions": of, "preferredVersion": of[-1]} for name, of in groups.items()]
            return {"kind": "APIGroupList", "groups": listed}
        kinds = KINDS.get(path.removeprefix("/apis/").removeprefix("/api/"))
        if kinds is None:
            return None
        resources = [
            {"name": plural, "kind": kind, "namespaced": kind not in CLUSTER_SCOPED, "verbs": []}
            for kind, plural in kinds.items()
            if absent not in plural
        ]
        if "Pod" in kinds:
            resources.append({"name": "pods/log", "kind": "Pod", "namespaced": True, "verbs": ["get"]})
        return {"kind": "APIResourceList", "resources": resources}

    def _chosen(self, path, selector):
        labels = [part.partition("=") for part in selector.split(",") if part]
        found = [each for name, each in self.server.objects.items() if name.rpartition("/")[0] == path]
        return [
            each
            for each in found
            if all(
                name in each["metadata"].get("labels", {}) and (not equals or each["metadata"]["labels"][name] == value)
                for name, equals, value in labels
            )
        ]

    def do_POST(self):
        if not (asked := self._begin()):
            return
        wanted = asked[2]["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, [wanted["resource"], wanted["subresource"]]))
        self._answer(
            201, {"status": {"allowed": allows(self.server.rights, wanted["verb"], wanted["group"], resource)}}
        )

    def do_PATCH(self):
        if not (asked := self._begin()):
            return
        path, query, change = asked
        there = self.server.objects.get(path)
        if there is None and "apply" not in self.headers["Content-Type"]:
            self._answer(404, {"message": "not found"})
            return
        if "dryRun" in query:
            self._answer(200, merged(there or {}, change))
            return
        self.server.put(path, merged(there or {}, change))
        self._answer(200, self.server.objects[path])

    def do_DELETE(self):
        if not (asked := self._begin()):
            return
        path, _, options = asked
        uid = self.server.objects[path]["metadata"]["uid"]
        assert options["preconditions"]["uid"] == uid
        if self.server.objects[path]["metadata"].get("finalizers"):
            self._answer(200, {})
            return
        del self.server.objects[path]
        self.server.collect(uid)
        self._answer(200, {})

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(wrap=lambda socket: socket):
    """An ApiServer while the block runs; `wrap` puts TLS around its socket."""
    server = ApiServer()
    server.socket = wrap(server.socket)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
