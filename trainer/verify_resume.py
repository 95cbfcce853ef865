"""`boceto verify-resume`: trains an undisturbed run and a killed run, and compares them to the bit."""

import contextlib
import dataclasses
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boceto import checkpoint, dataset, storage
from boceto.console import Console, clock_time, run_program, table
from boceto.errors import BocetoError, SettingsError
from boceto.settings import fixed, option, parse, to_flags
from trainer import kills, sameness
from trainer import settings as training
from trainer.kills import Kill

DESCRIPTION = (
    "Trains a short run, and the same run killed with SIGKILL at random moments, in processes of their own; compares "
    "weights, statistics, optimiser, EMA, progress, ledger, history and export of the two to the bit. Exit code "
    "0: equal, 1: not equal or a fault, 2: nothing was shown, other settings are needed. "
    "The settings are those of `boceto train`, small, with all that is random or kept between steps switched on."
)
_DIGITS = 3  # Of a number of replicas.
REFERENCE, KILLED = "reference", "killed"
_OF_TRAINING = {field.name: field for field in dataclasses.fields(training.Settings)}


def _as_in_training(name: str, default: Any) -> Any:
    """A field as in the settings of the training, with another default."""
    return dataclasses.field(default=default, metadata=_OF_TRAINING[name].metadata)


@dataclass(frozen=True)
class Settings(training.Settings):
    """The flags of `boceto verify-resume`."""

    run: str = fixed("")
    kills: int = option(3, help="how often the second run is killed", at_least=1, at_most=1000)
    seed_of_kills: int | None = option(
        None, help="seed of the moments of the kills; none: a new one each time, which is printed", at_least=0
    )
    work: str = option("", help="empty folder for the two runs, a path or gs://; empty: one of the system's own")
    keep_work: bool = option(False, help="keep the two runs where they are equal too")
    steps: int = option(40, help="steps of each run", at_least=2)
    save_every: int = option(5, help="steps between checkpoints", at_least=1)
    batch_size: int = _as_in_training("batch_size", 16)
    width_multiplier: float = _as_in_training("width_multiplier", 0.125)
    embedding: int = _as_in_training("embedding", 64)
    dropout: float = _as_in_training("dropout", 0.2)
    ema: float = _as_in_training("ema", 0.9)
    flip: bool = _as_in_training("flip", True)
    deterministic: str = option(
        "on", help="bit-exact operations; on GPUs runs are equal only with on", choices=("auto", "on", "off")
    )
    replicas: str = option(  # type: ignore[assignment]  # A number a session.
        "0",
        help="replicas of the sessions in turn, as 4,2,1, the undisturbed run with the first; 0: as in a training",
        listed=True,
    )
    epochs: int = fixed(1)
    max_steps: int = fixed(0)
    patience: int = fixed(0)
    steps_per_execution: int = fixed(1)
    validation_share: float = _as_in_training("validation_share", 0.2)
    log_every: int = fixed(2)  # More than one, so that a window of the log may lie over a kill.
    log_format: str = fixed("json")
    metrics_port: int = fixed(0)
    metrics_linger: float | None = fixed(0.0)
    tensorboard: bool = fixed(False)

    @property
    def each_replicas(self) -> list[int]:
        """The numbers of replicas of the sessions in turn.

        Raises:
            SettingsError: `replicas` is no list of numbers.
        """
        parts = self.replicas.split(",")
        if not all(part.strip().isdecimal() and len(part) <= _DIGITS for part in parts):
            raise SettingsError(f"verify-resume.replicas = {self.replicas!r} is no list of numbers; write 4,2,1")
        return [int(part) for part in parts]

    def of_training(self, run: str, records: int, replicas: int) -> training.Settings:
        """Returns the settings of the training in the folder `run`. records: of the training split."""
        values = {name: getattr(self, name) for name in _OF_TRAINING}
        values |= {"replicas": replicas, "groups": self.groups or max(self.each_replicas)}
        epochs = 1 + int(self.steps * self.batch_size / max(1, records * (1 - self.validation_share)))
        return training.Settings(**values | {"run": run, "max_steps": self.steps, "epochs": epochs})


class NotEqual(BocetoError):  # noqa: N818 - a name of the finding
    """The two runs differ."""


class NothingShown(SettingsError):  # noqa: N818 - a name of the finding
    """No run went on after a kill, so nothing is shown: other settings are needed."""


def verify(
    settings: Settings, console: Console, command: Sequence[str] = kills.COMMAND
) -> tuple[dict[str, Any], BocetoError | None]:
    """Trains the two runs and compares them. `command` is the trainer's, without its flags.

    Returns the result for `--json`, and an error where the runs differ.

    Raises:
        NothingShown: a training was done before all kills, or none went on from a checkpoint.
        ChildFailed: a training failed, or was ended by someone else.
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
        runs = [storage.join(work.url, name) for name in (REFERENCE, KILLED)]
        reference, killed = (
            [[*command, *to_flags(settings.of_training(run, records, each))] for each in settings.each_replicas]
            for run in runs
        )
        console.line(f"{settings.net}: {settings.steps} steps undisturbed, then {settings.kills} kills, seed {seed}")
        session = kills.done(kills.run(reference[0]))
        if len(session.points) <= 1:
            raise NothingShown("the undisturbed run has too few log points, so nothing is shown; give more --steps")
        hits = _kill(killed, runs[1], kills.plan(settings.kills, session.points, seed), console)
        last = kills.done(kills.run(killed[len(hits) % len(killed)]))
        resumed = sum(hit["went_on_after_step"] > 0 for hit in hits) + (last.restored > 0)
        if not resumed:
            raise NothingShown(
                "every kill came before the first checkpoint, so nothing is shown; give more --kills or a smaller "
                "--save-every"
            )
        parts, differences = sameness.compare(runs[0], runs[1], settings.steps)
        work.kept = bool(differences) or settings.keep_work
    result = {
        "equal": not differences,
        "net": settings.net,
        "steps": settings.steps,
        "seed_of_kills": seed,
        "kills": hits,
        "resumed": resumed,
        "parts": [{**part._asdict(), "same": part.same} for part in parts],
        "differences": differences,
        "work": work.url if work.kept else None,
    }
    _show(console, result, parts)
    console.line(f"took {clock_time(time.monotonic() - started)}")
    wrong = f"the killed run differs: {'; '.join(differences)}; both runs are in {work.url}"
    return result, NotEqual(wrong) if differences else None


def _kill(commands: Sequence[Sequence[str]], run: str, plan: Sequence[Kill], console: Console) -> list[dict[str, Any]]:
    """Trains with these kills, with the commands in turn; returns a result of each kill."""
    hits: list[dict[str, Any]] = []
    for number, kill in enumerate(plan, 1):
        session = kills.run(commands[len(hits) % len(commands)], kill)
        if session.status == 0:
            raise NothingShown(
                f"the run was done before kill {number} of {len(plan)}, so nothing is shown; give more --steps or "
                "fewer --kills"
            )
        if not session.was_killed:
            raise kills.ChildFailed(session)
        states = {step: checkpoint.state(run, step, urls)[0] for step, urls in checkpoint.files(run).items()}
        hits.append(
            {
                "milliseconds_after_step": round(1000 * kill.seconds, 3),
                "went_on_after_step": session.restored,
                "last_step": session.last,
                "status": session.status,
                "whole": [step for step, state in states.items() if state == checkpoint.WHOLE],
                "torn": [step for step, state in states.items() if state != checkpoint.WHOLE],
            }
        )
        console.progress(f"{_moment(hits[-1])}, exit status {session.status}", number, len(plan), "kills")
    return hits


def _moment(hit: Mapping[str, Any]) -> str:
    return f"{hit['milliseconds_after_step']:,.0f} ms after step {hit['last_step']}"


@dataclass
class Work:
    """The folder of the two runs. kept: whether it stays after the block."""

    url: str
    kept: bool = True


@contextlib.contextmanager
def _work(settings: Settings, console: Console) -> Iterator[Work]:
    """An empty folder, which is removed after the block unless it is kept."""
    if settings.work:
        storage.check_lasting(settings.work, "verify-resume.work")
        if storage.list_files(settings.work):
            raise SettingsError(f"verify-resume.work = {settings.work} is not empty; give another folder")
    work = Work(settings.work or tempfile.mkdtemp(prefix="boceto-verify-resume-"))
    try:
        yield work
    except KeyboardInterrupt:
        work.kept = False  # Half a run is of no use, and the same command needs an empty folder.
        raise
    finally:
        if work.kept:
            console.line(f"the two runs are in {work.url}")
        else:
            storage.delete_folder(work.url)


def _show(console: Console, result: Mapping[str, Any], parts: Sequence[sameness.Part]) -> None:
    """Shows tables of the kills and of the digests, and the verdict."""
    rows = [
        [
            _moment(hit),
            str(hit["went_on_after_step"] or "-"),
            str(hit["status"]),
            str(max(hit["whole"], default="-")),
            ", ".join(map(str, hit["torn"])) or "-",
        ]
        for hit in result["kills"]
    ]
    heads = ["killed with SIGKILL", "went on after step", "exit status", "newest whole", "torn"]
    console.line("\n" + table(heads, rows))
    rows = [
        [part.name, f"{part.arrays or '-'}", part.first, part.second, "equal" if part.same else "NOT EQUAL"]
        for part in parts
    ]
    console.line("\n" + table(["after the last step", "arrays", "undisturbed", "killed", ""], rows))
    verdict = "EQUAL to the bit" if result["equal"] else f"NOT EQUAL: {'; '.join(result['differences'])}"
    count = len(result["kills"])
    console.line(
        f"\n{count} of {count} kills hit a living process, {result['resumed']} sessions went on from a checkpoint. "
        f"The two runs are {verdict}."
    )


def main(argv: Sequence[str]) -> int:
    """Runs `boceto verify-resume` with these words; returns the exit code."""

    def work(console: Console) -> tuple[Mapping[str, Any], bool, BocetoError | None]:
        invocation = parse(Settings, "verify-resume", argv, DESCRIPTION)
        result, wrong = verify(invocation.settings, console)
        return result, invocation.json, wrong

    return run_program("verify-resume", work)
