"""Which rights the verbs of `boceto submit` need. All that are missing are told at once.

`k8s/rights/submit` is a Role with all of them.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from boceto.errors import SettingsError
from k8s.api import Cluster, Unreachable
from k8s.render import RIGHTS, Object, of_kind, silence


class Right(NamedTuple):
    """To do something with a kind of objects: of a namespace, or of the whole cluster."""

    verb: str
    group: str
    resource: str
    namespaced: bool = True

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


def _of(group: str, resource: str, *verbs: str) -> list[Right]:
    return [Right(verb, group, resource) for verb in verbs]


LISTS = _of("batch", "jobs", "list")
SEES = [*LISTS, *_of("", "pods", "list")]
FOLLOWS = [*SEES, *_of("batch", "jobs", "get"), *_of("", "pods/log", "get")]
STOPS = [*FOLLOWS, *_of("batch", "jobs", "patch")]
RESUMES = [
    *STOPS,
    *_of("batch", "jobs", "create", "delete"),
    *_of("", "configmaps", "get", "create", "patch"),
    *_of("", "serviceaccounts", "get"),
]


def to_apply(cluster: Cluster, objects: Iterable[Object], *, replace: bool, follow: bool) -> list[Right]:
    """The rights to bring objects to the cluster, in the order of the objects."""
    rights: dict[Right, None] = dict.fromkeys(FOLLOWS if follow else ())
    for each in objects:
        kind = cluster.kind(each["apiVersion"], each["kind"])
        rights |= {Right(verb, kind.group, kind.name, kind.namespaced): None for verb in ("get", "create", "patch")}
    return [*rights, *(_of("batch", "jobs", "delete") if replace else ())]


def check(cluster: Cluster, needed: Sequence[Right]) -> None:
    """Raises SettingsError where a right is missing, with all that are."""
    lacking = missing(cluster, needed)
    if lacking:
        raise SettingsError(
            f"namespace {cluster.namespace}: not allowed: {', '.join(map(str, lacking))}; ask for them (the "
            "Role k8s/rights/submit has all that `boceto submit` needs), or give another --namespace or --context"
        )


def missing(cluster: Cluster, needed: Sequence[Right]) -> list[Right]:
    """The rights of `needed` that this user does not have, as far as the cluster says.

    One question tells what the Roles give; what other means give (an IAM, say) is asked one by one.
    """
    try:
        given = cluster.rules()
        return [
            right
            for right in needed
            if not gives(given, right) and not cluster.may(*right[:3], namespaced=right.namespaced)
        ]
    except Unreachable:
        raise
    except SettingsError:  # Who may not ask is told with the first refusal.
        return []


def gives(rules: Sequence[Object], right: Right) -> bool:
    """Whether the rules of a Role give a right to all objects of a kind; a Role gives none to the whole cluster."""
    return right.namespaced and any(
        not rule.get("resourceNames")
        and all(
            wanted in rule.get(part, []) or "*" in rule.get(part, [])
            for part, wanted in (("verbs", right.verb), ("apiGroups", right.group), ("resources", right.resource))
        )
        for rule in rules
    )


def without_rights(cluster: Cluster, objects: Sequence[Object]) -> tuple[list[Object], str]:
    """-> (the objects without those that give rights, where this user may not give any; the right that is missing)."""
    giving = [each for each in objects if each["apiVersion"].startswith(RIGHTS)]
    lacking = missing(cluster, to_apply(cluster, giving, replace=False, follow=False))
    if not lacking:
        return list(objects), ""
    kept = [each for each in objects if each not in giving]
    silence(of_kind(kept, "Job"))
    return kept, str(lacking[0])
