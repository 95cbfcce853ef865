"""`boceto verify-resume`: trains one run in peace and one that is killed, and compares them to the bit."""

import contextlib
import dataclasses
import math
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boceto import checkpoint, dataset, storage
from boceto.console import Console, clock_time, run_check, table
from boceto.errors import BocetoError, SettingsError
from boceto.settings import fixed, option, parse, to_flags
from trainer import kills, sameness
from trainer import settings as training
from trainer.kills import Child, Kill, Pace, Session

DESCRIPTION = (
    "Trains a short run, and the same run killed with SIGKILL at random moments, in processes of their own; compares "
    "weights, statistics, optimiser, EMA, progress, ledger, history and export of the two to the bit. Exit code "
    "0: equal, 1: not. "
    "The settings are those of `boceto train`, small, with what is random or remembered switched on."
)
COMMAND = (sys.executable, "-m", "boceto", "train")
_DIGITS = 3  # Of a number of replicas.
REFERENCE, KILLED = "reference", "killed"
_OF_TRAINING = {field.name for field in dataclasses.fields(training.Settings)}


@dataclass(frozen=True)
class Settings(training.Settings):
    """The flags of `boceto verify-resume`."""

    run: str = fixed("")
    kills: int = option(3, help="how often the second run is killed", at_least=1, at_most=1000)
    seed_of_kills: int | None = option(
        None, help="seed of the moments of the kills; none: a new one each time, told", at_least=0
    )
    work: str = option("", help="empty folder for the two runs, a path or gs://; empty: one of the system's own")
    keep_work: bool = option(False, help="keep the two runs where they are equal too")
    steps: int = option(40, help="steps of each run", at_least=2)
    save_every: int = option(5, help="steps between checkpoints", at_least=1)
    batch_size: int = option(16, help="records a step, over all replicas", at_least=1)
    width_multiplier: float = option(0.125, help="multiplier of the conv channels", at_least=0.01, at_most=16)
    embedding: int = option(64, help="size of the embedding", at_least=1)
    dropout: float = option(0.2, help="dropout rate of the embedding in training, 0..0.95", at_least=0, at_most=0.95)
    ema: float = option(0.9, help="decay of the weights' moving average; 0: none", at_least=0, at_most=0.99999)
    flip: bool = option(True, help="augmentation: mirror half of the drawings")
    deterministic: str = option(
        "on", help="bit-exact operations; on GPUs runs are equal only with on", choices=("auto", "on", "off")
    )
    readers: int = option(2, help="threads that read and decode", at_least=1, at_most=256)
    replicas: str = option(  # type: ignore[assignment]  # A number a session.
        "0", help="replicas of the sessions in turn, as 4,2,1, the run in peace with the first; 0: as in a training"
    )
    epochs: int = fixed(1)
    max_steps: int = fixed(0)
    patience: int = fixed(0)
    steps_per_execution: int = fixed(1)
    validation_share: float = option(0.2, help="share of training kept for validation", at_least=0, at_most=0.9)
    log_every: int = fixed(2)  # More than one, so that a window of the log may lie over a kill.
    log_format: str = fixed("json")
    metrics_port: int = fixed(0)
    metrics_linger: float | None = fixed(0.0)
    tensorboard: bool = fixed(False)

    @property
    def each_replicas(self) -> list[int]:
        """The numbers of replicas.

        Raises:
            SettingsError: they are no list of numbers.
        """
        parts = self.replicas.split(",")
        if not all(part.strip().isdecimal() and len(part) <= _DIGITS for part in parts):
            raise SettingsError(f"verify-resume.replicas = {self.replicas!r} is no list of numbers; write 4,2,1")
        return [int(part) for part in parts]

    def of_training(self, run: str, records: int, replicas: int) -> training.Settings:
        """The settings of the training at `run`, over that many records, with that many replicas."""
        values = {name: getattr(self, name) for name in _OF_TRAINING}
        values |= {"replicas": replicas, "groups": self.groups or max(self.each_replicas)}
        epochs = 1 + int(self.steps * self.batch_size / max(1, records * (1 - self.validation_share)))
        return training.Settings(**values | {"run": run, "max_steps": self.steps, "epochs": epochs})


class NotEqual(BocetoError):  # noqa: N818 - it is what was found
    """The two runs differ."""


class NotKilled(BocetoError):  # noqa: N818 - it is what was found
    """A kill did not hit a living process, so nothing was shown."""


class ChildFailed(BocetoError):  # noqa: N818 - it is told, not handled
    """A training ended by itself before it was done."""

    def __init__(self, session: Session) -> None:
        super().__init__(f"a training ended with exit status {session.status}: {' / '.join(session.lines) or 'no log'}")
        self.exit_code = session.status if session.status > 0 else self.exit_code


@dataclass(frozen=True)
class Hit:
    """A kill, and what it left: the steps of the checkpoints by their state."""

    kill: Kill
    session: Session
    whole: list[int]
    torn: list[int]

    @property
    def row(self) -> list[str]:
        """Its line of the table."""
        session = self.session
        return [
            f"{1000 * session.after:,.0f} ms into a {self.kill.moment}",
            str(session.restored or "-"),
            str(session.last or "-"),
            str(session.status),
            str(self.whole[-1] if self.whole else "-"),
            ", ".join(map(str, self.torn)) or "-",
        ]

    @property
    def result(self) -> dict[str, Any]:
        """What goes into the result."""
        session = self.session
        return {
            "moment": self.kill.moment,
            "milliseconds_into_it": round(1000 * session.after, 3),
            "went_on_after_step": session.restored,
            "last_step": session.last,
            "status": session.status,
            "whole": self.whole,
            "torn": self.torn,
        }


def verify(
    settings: Settings, console: Console, command: Sequence[str] = COMMAND
) -> tuple[dict[str, Any], BocetoError | None]:
    """Trains and compares; -> (the result, what is wrong). `command` is the trainer's, without its flags.

    Raises:
        NotKilled: a training was done before all kills, or was ended by someone else.
        ChildFailed: a training failed.
    """
    data = dataset.load(settings.data)
    records = data.manifest.splits["train"].records if "train" in data.manifest.splits else 0
    seed = secrets.randbelow(2**31) if settings.seed_of_kills is None else settings.seed_of_kills
    if settings.deterministic != "on":
        console.warning(
            f"train.deterministic = {settings.deterministic!r}: on GPUs, runs are equal only with --deterministic on"
        )
    started = time.monotonic()
    with _work(settings, console) as work:
        reference, killed = (
            [
                [*command, *to_flags(settings.of_training(storage.join(work.url, name), records, replicas))]
                for replicas in settings.each_replicas
            ]
            for name in (REFERENCE, KILLED)
        )
        console.line(f"{settings.net}: {settings.steps} steps in peace, then with {settings.kills} kills, seed {seed}")
        told = math.lcm(settings.save_every, settings.log_every)  # Steps between saves that the log tells of.
        session, pace = kills.measure(reference[0], storage.join(work.url, REFERENCE), told)
        _check_done(session)
        plan = kills.plan(settings.kills, settings.steps, told, seed)
        hits = _kill(killed, storage.join(work.url, KILLED), plan, pace, console)
        last = Child(killed[len(hits) % len(killed)]).run()
        _check_done(last)
        resumed = sum(session.restored > 0 for session in (*(hit.session for hit in hits), last))
        if not resumed:
            raise NotKilled("every kill came before the first checkpoint, so nothing is shown; give more --kills")
        both = [storage.join(work.url, name) for name in (REFERENCE, KILLED)]
        parts, differences = sameness.compare(*(checkpoint.load(run, settings.steps) for run in both))
        more, others = sameness.compare_told(*both)
        parts, differences = [*parts, *more], [*differences, *others]
        work.finished = not differences
    console.line(_report(hits, resumed, parts, differences))
    console.line(f"took {clock_time(time.monotonic() - started)}")
    result = {
        "equal": not differences,
        "net": settings.net,
        "steps": settings.steps,
        "seed_of_kills": seed,
        "kills": [hit.result for hit in hits],
        "resumed": resumed,
        "parts": sameness.as_json(parts),
        "differences": differences,
        "work": work.url if work.kept else None,
    }
    wrong = f"the run that was killed is another one: {'; '.join(differences)}; both are in {work.url}"
    return result, NotEqual(wrong) if differences else None


def _kill(commands: Sequence[Sequence[str]], run: str, plan: Sequence[Kill], pace: Pace, console: Console) -> list[Hit]:
    """Trains with these kills, with the commands in turn."""
    hits: list[Hit] = []
    for number, kill in enumerate(plan, 1):
        session = Child(commands[len(hits) % len(commands)], kill, pace).run()
        if not session.was_killed:
            _not_killed(session, number, len(plan))
        states = {step: checkpoint.state(run, step, urls)[0] for step, urls in checkpoint.files(run).items()}
        whole = [step for step, state in states.items() if state == checkpoint.WHOLE]
        hits.append(Hit(kill, session, whole, [step for step in states if step not in whole]))
        console.progress(f"kill {number} of {len(plan)}: {hits[-1].row[0]}, exit status {session.status}")
    return hits


def _check_done(session: Session) -> None:
    if session.status:
        raise ChildFailed(session)


def _not_killed(session: Session, number: int, kills: int) -> None:
    """Raises what is wrong where a kill hit nothing."""
    if session.status == 0:
        raise NotKilled(
            f"the run was done before kill {number} of {kills}, so nothing is shown; give more --steps or fewer --kills"
        )
    raise ChildFailed(session)


@dataclass
class Work:
    """The folder of the two runs. finished: whether nobody needs them any more; kept: whether they are still there."""

    url: str
    finished: bool = False
    kept: bool = True


@contextlib.contextmanager
def _work(settings: Settings, console: Console) -> Iterator[Work]:
    """An empty folder, which goes with the block where all went well."""
    if settings.work:
        storage.check_lasting(settings.work, "verify-resume.work")
        if storage.list_files(settings.work):
            raise SettingsError(f"verify-resume.work = {settings.work} is not empty; give another folder")
    stopped = False
    work = Work(settings.work or tempfile.mkdtemp(prefix="boceto-verify-resume-"))
    try:
        yield work
    except KeyboardInterrupt:
        stopped = True  # Half of the runs is of no use, and the same command needs an empty folder.
        raise
    finally:
        if stopped or (work.finished and not settings.keep_work):
            storage.delete_folder(work.url)
            work.kept = False
        else:
            console.line(f"the two runs are in {work.url}")


def _report(hits: Sequence[Hit], resumed: int, parts: Sequence[sameness.Part], differences: Sequence[str]) -> str:
    """Tables of the kills and of the digests, and the verdict."""
    header = ["killed with SIGKILL", "went on after step", "last step", "exit status", "newest whole", "torn"]
    digests = [
        [part.name, f"{part.arrays or '-'}", part.first, part.second, "equal" if part.same else "NOT EQUAL"]
        for part in parts
    ]
    shown = f"{len(hits)} of {len(hits)} kills hit a living process, {resumed} sessions went on from a checkpoint"
    verdict = f"NOT EQUAL: {'; '.join(differences)}" if differences else "EQUAL to the bit"
    return "\n".join(
        [
            "",
            table(header, [hit.row for hit in hits]),
            "",
            table(["after the last step", "arrays", "in peace", "killed", ""], digests),
            "",
            f"{shown}. The two runs are {verdict}.",
        ]
    )


def main(argv: Sequence[str]) -> int:
    """Runs `boceto verify-resume` with these words; returns the exit code."""

    def work(console: Console) -> tuple[Mapping[str, Any], bool, BocetoError | None]:
        invocation = parse(Settings, "verify-resume", argv, DESCRIPTION)
        result, wrong = verify(invocation.settings, console)
        return result, invocation.json, wrong

    return run_check("verify-resume", work)
