"""The settings of `boceto submit`, a class a verb."""

import re
from dataclasses import dataclass

from boceto.errors import SettingsError
from boceto.settings import option

PROGRAMS = ("prepare", "train", "eval")


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """The cluster, and a namespace in it."""

    namespace: str = option("", help="namespace; empty: the context's, and for run, the overlay's if it has one")
    context: str = option("", help="context of the kubeconfig; empty: the current one")


@dataclass(frozen=True, kw_only=True)
class RunSettings(ClusterSettings):
    """The run that `boceto submit run` starts."""

    overlay: str = option(
        "local", help="name of an overlay of k8s/overlays, or a folder with prepare/, train/ and eval/ in it"
    )
    program: str = option("train", help="program, where it is not the whole chain", choices=PROGRAMS)
    chain: bool = option(False, help="prepare, train and eval in order, without those that are done")
    name: str = option("", help="name of the run, its Jobs and its folder; empty: the last part of train.run")
    net: str = option("", help="net, instead of the overlay's")
    set: tuple[str, ...] = option((), help="setting instead of the overlay's, as train.epochs=3; may be given often")
    replace: bool = option(
        False,
        help="a Job of this name with other settings makes way, stopped gracefully if it runs; a shared "
        "emulator with another spec is changed too, and loses its data",
    )
    follow: bool = option(True, help="stay until it has ended")
    render: bool = option(False, help="print the manifests and apply nothing")


@dataclass(frozen=True, kw_only=True)
class NamedRun(ClusterSettings):
    """A run that was submitted before."""

    name: str = option(help="name of the run", positional=True)


@dataclass(frozen=True, kw_only=True)
class ProgramSettings(NamedRun):
    """One program of a run."""

    program: str = option("", help="program; empty: the one that was started last", choices=("", *PROGRAMS))


@dataclass(frozen=True, kw_only=True)
class FollowSettings(ProgramSettings):
    """One program of a run, and whether to follow it."""

    follow: bool = option(True, help="stay until it has ended")


def check_namespace(name: str) -> str:
    """Returns the name of a namespace.

    Raises:
        SettingsError: no namespace can have this name.
    """
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise SettingsError(
            f"submit.namespace = {name!r} names no namespace; use a-z, 0-9 and dashes inside, at most 63 characters"
        )
    return name


def check_name(name: str, setting: str) -> str:
    """Returns the name of a run. `<name>-<program>` and a suffix name its pods, in 63 characters at most.

    Raises:
        SettingsError: no Job can have this name.
    """
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?", name):
        raise SettingsError(
            f"{setting} = {name!r} cannot name a Job; use a-z, 0-9 and dashes inside, at most 47 characters"
        )
    return name
