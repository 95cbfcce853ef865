"""Kills a training at random moments, with SIGKILL: when, and what became of it."""

import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from boceto import checkpoint, contract, process, storage

Process = subprocess.Popen[str]
START, FIRST, STEP, SAVE = "start-up", "first step", "step", "save"
_LAST_LINES = 5
_LOOK_SECONDS = 0.001
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Kill:
    """When to kill: `share` (0..1) of a start-up, a first step after a restore, a step or a save after it began. A step
    and a save begin with the first log point of `step` or a later one that is a multiple of `every`.
    """

    moment: str
    step: int
    share: float
    every: int = 1


@dataclass(frozen=True)
class Pace:
    """Seconds that a start-up, a first step (which compiles), a step and a save take, or so."""

    start: float
    first: float
    step: float
    save: float

    def seconds(self, kill: Kill) -> float:
        """How long after its moment `kill` is due."""
        every = {START: self.start, FIRST: self.first, STEP: self.step, SAVE: self.save}
        return kill.share * every[kill.moment]


@dataclass
class Session:
    """What became of one process. restored: the step it went on after. killed: whether the signal was sent by us to a
    living process; after: seconds between the kill's moment and the signal. lines: the last of its log.
    """

    status: int = 0
    killed: bool = False
    after: float = 0.0
    restored: int = 0
    last: int = 0
    begun: float = 0.0
    lines: list[str] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    @property
    def was_killed(self) -> bool:
        """Whether our SIGKILL is what ended it."""
        return self.killed and self.status == -signal.SIGKILL


class Plan(NamedTuple):
    """A run's steps, the steps between its saves, and whether nothing was saved yet."""

    steps: int
    save_every: int
    first: bool


def plan(kills: int, steps: int, save_every: int, seed: int) -> list[Kill]:
    """Random moments of every kind, spread over the steps of a run, in rising order of steps."""
    random = np.random.default_rng(seed)
    rounds = [random.permutation([START, STEP, SAVE]) for _ in range(-(-kills // 3))]
    moments = np.concatenate(rounds)[:kills].tolist()
    bounds = [1 + part * (steps - 1) // kills for part in range(kills + 1)]
    return [
        _kill(moment, low, max(high, low + 1), Plan(steps, save_every, first=low == 1), random)
        for moment, low, high in zip(moments, bounds, bounds[1:], strict=False)
    ]


def _kill(moment: str, low: int, high: int, run: Plan, random: np.random.Generator) -> Kill:
    """A kill of this kind, or of one near it, between the steps `low` and `high` (not included)."""
    step, share = int(random.integers(low, high)), float(random.random())
    saved = -(-low // run.save_every) * run.save_every
    if moment == SAVE and saved < run.steps:  # After the last save there would be nothing more to kill.
        return Kill(SAVE, saved, share, run.save_every)
    if moment == START:
        return Kill(START if run.first or random.random() < 1 / 2 else FIRST, step, share)
    return Kill(STEP, step, share)


class Child:
    """A training in a process of its own, which writes its log as JSON with a point a step."""

    def __init__(self, command: Sequence[str], kill: Kill | None = None, pace: Pace | None = None) -> None:
        self._command = command
        self._kill = kill
        self._seconds = pace.seconds(kill) if kill and pace else 0.0
        self._timer: threading.Timer | None = None
        self._session = Session()
        self._mark = 0.0

    def run(self, on_step: Callable[[int], None] = lambda _: None) -> Session:
        """Runs it to its end, whichever that is."""
        session = self._session
        session.begun = self._mark = time.monotonic()
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with process.child(self._command, Process.kill, text=True, errors="replace", **pipes) as child:
            try:
                if self._kill and self._kill.moment == START:
                    self._arm(child)
                for line in child.stderr or ():
                    self._take(child, line, on_step)
            except BaseException:
                child.kill()  # It must not outlive us.
                raise
            finally:
                if self._timer:
                    self._timer.cancel()
                    self._timer.join()
        session.status = child.returncode
        return session

    def _arm(self, child: Process) -> None:
        """Sets the kill off, once."""
        if self._timer is None:
            self._mark = time.monotonic()
            self._timer = threading.Timer(self._seconds, self._shoot, (child,))
            self._timer.start()

    def _shoot(self, child: Process) -> None:
        if child.poll() is None and not self._session.killed:
            self._session.killed = True
            self._session.after = time.monotonic() - self._mark
            child.kill()

    def _take(self, child: Process, line: str, on_step: Callable[[int], None]) -> None:
        """Reads one line of the log."""
        session, kill = self._session, self._kill
        session.lines = [*session.lines, line.rstrip()][-_LAST_LINES:]
        try:
            entry = contract.decode(line.encode())
            session.lines[-1] = str(entry.get("message", line))
            step = contract.field(entry, "step", int)
        except ValueError:  # Not every line is JSON, or tells of a step.
            return
        if entry.get("message") == "progress":
            session.steps.append(time.monotonic())
            session.last = step
            on_step(step)
            self._at_step(child, step)
        elif not session.steps:
            session.restored = session.restored or step
            if kill and kill.moment == FIRST:
                self._arm(child)

    def _at_step(self, child: Process, step: int) -> None:
        kill = self._kill
        if kill and kill.moment in {START, FIRST}:
            self._shoot(child)  # It was faster than expected: what the kill was meant for ends here.
        elif kill and step >= kill.step and step % kill.every == 0:
            self._arm(child)


def measure(command: Sequence[str], run: str, save_every: int) -> tuple[Session, Pace]:
    """Lets a training run to its end; -> (what became of it, its pace)."""
    saves: list[float] = []

    def on_step(step: int) -> None:
        if not saves and step % save_every == 0:
            saves.append(_seconds_to_commit(run, step))

    session = Child(command).run(on_step)
    gaps = [later - earlier for earlier, later in zip(session.steps, session.steps[1:], strict=False)]
    start = session.steps[0] - session.begun if session.steps else 0.0
    step = statistics.median(gaps) if gaps else 0.0
    return session, Pace(start, start / 4, step, saves[0] if saves else step)


def _seconds_to_commit(run: str, step: int) -> float:
    began = time.monotonic()
    path = storage.join(checkpoint.folder_of(run, step), checkpoint.COMMIT)
    while not storage.exists(path) and time.monotonic() - began < _PATIENCE_SECONDS:
        time.sleep(_LOOK_SECONDS)
    return time.monotonic() - began
