"""The rights that the verbs of `boceto submit` need. One error names all that are missing.

`k8s/rights/submit` is a Role with all of them.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from boceto.errors import SettingsError
from k8s.api import ACCESS, REVIEW, Cluster, Unreachable
from k8s.render import Object


class Right(NamedTuple):
    """The right to do something with a kind of objects: of a namespace, or of the whole cluster."""

    verb: str
    group: str
    resource: str
    namespaced: bool = True

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


LIST = [Right("list", "batch", "jobs")]
STATUS = [*LIST, Right("list", "", "pods")]
FOLLOW = [*STATUS, Right("get", "batch", "jobs"), Right("get", "", "pods/log")]
STOP = [*FOLLOW, Right("patch", "batch", "jobs")]
RESUME = [
    *STOP,
    *(Right(verb, "batch", "jobs") for verb in ("create", "delete")),
    *(Right(verb, "", "configmaps") for verb in ("get", "patch")),
]


def to_apply(
    cluster: Cluster, objects: Iterable[Object], *, replace: bool = False, follow: bool = False
) -> list[Right]:
    """Returns the rights to apply objects, and to replace and follow their Job, in the order of the objects."""
    needed = dict.fromkeys(FOLLOW if follow else ())
    for each in objects:
        kind = cluster.kind(each["apiVersion"], each["kind"])
        needed |= {Right(verb, kind.group, kind.name, kind.namespaced): None for verb in ("get", "create", "patch")}
    return [*needed, *([Right("delete", "batch", "jobs")] if replace else [])]


def check(cluster: Cluster, needed: Sequence[Right]) -> None:
    """Raises SettingsError where rights are missing, and names all of them."""
    if lacking := missing(cluster, needed):
        raise SettingsError(
            f"namespace {cluster.namespace}: not allowed: {', '.join(map(str, lacking))}; ask for them (the "
            "Role k8s/rights/submit has all that `boceto submit` needs), or give another --namespace or --context"
        )


def missing(cluster: Cluster, needed: Sequence[Right]) -> list[Right]:
    """Returns the rights of `needed` that the cluster says this user does not have."""
    try:
        cluster.kind(ACCESS, REVIEW)  # The threads share the answer.
        with ThreadPoolExecutor(8) as pool:
            allowed = pool.map(lambda right: cluster.may(*right[:3], namespaced=right.namespaced), needed)
            return [right for right, given in zip(needed, allowed, strict=True) if not given]
    except Unreachable:
        raise
    except SettingsError:  # A user who may not ask meets the refusal itself later.
        return []
