"""`boceto train`: TFRecord shards to checkpoints and an artefact."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from boceto import process
from boceto.console import Console, run_program
from boceto.errors import EXIT_FAULT
from boceto.settings import parse
from trainer import environment, session, stop
from trainer.attempts import Attempt
from trainer.log import Log
from trainer.meter import GoodputTimer
from trainer.settings import Settings

DESCRIPTION = (
    "Trains a net on a prepared data set and exports it. Run again, the same command goes on where it stopped."
)


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns its exit code."""
    timer, attempt = GoodputTimer(began=process.started()), Attempt()

    def work(console: Console) -> tuple[Mapping[str, Any], bool]:
        invocation = parse(Settings, "train", argv, DESCRIPTION)
        settings = invocation.settings
        attempt.run = settings.run
        environment.prepare()
        with stop.on_signals(settings.grace, lambda text: console.line(f"boceto train: {text}")) as asked:
            return session.run(settings, Log(console, settings.log_format), asked, timer), invocation.json

    try:
        return run_program("train", work, attempt.ended)
    except Exception as error:
        attempt.ended(EXIT_FAULT, f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
