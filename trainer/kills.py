"""Runs trainings in child processes, and kills them with SIGKILL at random moments."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from boceto import contract, process
from boceto.errors import EXIT_DATA, EXIT_FAULT, EXIT_SETTINGS, BocetoError

COMMAND = (sys.executable, "-m", "boceto", "train")
Process = subprocess.Popen[str]
_LAST_LINES = 5


class Kill(NamedTuple):
    """A kill is due `seconds` after the first log point of `step` or of a later step."""

    step: int
    seconds: float


@dataclass
class Session:
    """One child process. restored: the step of the checkpoint that it went on from, 0 for none. killed: whether our
    SIGKILL was sent while it lived. lines: the last of its log. points: (step, time.monotonic()) of each log point.
    """

    status: int = 0
    killed: bool = False
    restored: int = 0
    lines: list[str] = field(default_factory=list)
    points: list[tuple[int, float]] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The last step that it logged, 0 for none."""
        return self.points[-1][0] if self.points else 0

    @property
    def was_killed(self) -> bool:
        """Whether our SIGKILL ended it: the signal was sent, and the exit status is that of a SIGKILL."""
        return self.killed and self.status == -signal.SIGKILL

    def read(self, line: str) -> None:
        """Adds a line of the log."""
        self.lines = [*self.lines, line.rstrip()][-_LAST_LINES:]
        try:
            entry = contract.decode(line.encode())
            self.lines[-1] = str(entry.get("message", line))
            step = contract.field(entry, "step", int)
        except ValueError:  # Not every line is JSON, or has a step.
            return
        if entry.get("message") == "progress":
            self.points.append((step, time.monotonic()))
        elif not self.points:
            self.restored = self.restored or step


class ChildFailed(BocetoError):  # noqa: N818 - it is reported, not handled
    """A training ended by itself before it was done. Its exit codes 2 and 65 are passed on; others are a fault."""

    def __init__(self, session: Session) -> None:
        log = " / ".join(session.lines) or "no log"
        super().__init__(f"a training ended with exit status {session.status}, so nothing is shown: {log}")
        self.exit_code = session.status if session.status in {EXIT_SETTINGS, EXIT_DATA} else EXIT_FAULT


def done(session: Session) -> Session:
    """Returns `session`, whose exit status is 0.

    Raises:
        ChildFailed: the exit status is another.
    """
    if session.status:
        raise ChildFailed(session)
    return session


def plan(kills: int, points: Sequence[tuple[int, float]], seed: int) -> list[Kill]:
    """Draws moments, uniform over the steps of an undisturbed run, in rising order.

    points: (step, time) of the log points of that run, at least two. No kill comes later than the last but one of them.
    """
    found = []
    for moment in sorted(np.random.default_rng(seed).uniform(0, len(points) - 1, kills).tolist()):
        number = int(moment)
        (step, begun), (_, ended) = points[number : number + 2]
        found.append(Kill(step, (moment - number) * (ended - begun)))
    return found


def run(command: Sequence[str], kill: Kill | None = None, begun: Callable[[Process], None] = lambda _: None) -> Session:
    """Runs a training that logs JSON to its standard error, to its end or until `kill` is due.

    begun: is called with the child when it runs.
    """
    session, timers = Session(), list[threading.Timer]()

    def shoot(child: Process) -> None:
        if child.poll() is None:
            session.killed = True
            child.kill()

    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with process.child(command, Process.kill, text=True, errors="replace", **pipes) as child:
        try:
            begun(child)
            for line in child.stderr or ():
                session.read(line)
                if kill and not timers and session.last >= kill.step:
                    timers.append(threading.Timer(kill.seconds, shoot, (child,)))
                    timers[0].start()
        except BaseException:
            child.kill()  # The child must not outlive an error of ours.
            raise
        finally:
            for timer in timers:
                timer.cancel()
                timer.join()
    session.status = child.returncode
    return session
