"""The program `boceto eval`."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from boceto.console import Console, quiet, run_program
from boceto.settings import parse
from eval_jobs import environment
from eval_jobs.settings import Settings

VERB = "eval"
DESCRIPTION = (
    "Scores a run's export: accuracy, mAP, a report and a picture. An export is a SavedModel, a program: it is refused "
    "where its graph reaches files, the network or Python, but evaluate no run of somebody you do not trust."
)


def main(argv: Sequence[str]) -> int:
    """Runs `boceto eval` with `argv`; returns the exit code."""

    def work(console: Console) -> tuple[Mapping[str, Any], bool]:
        invocation = parse(Settings, VERB, argv, DESCRIPTION)
        environment.prepare()
        with quiet():
            from eval_jobs import evaluate  # numba and Pillow are not needed to say what is wrong with a flag.

        return evaluate.run(invocation.settings, console), invocation.json

    return run_program(VERB, work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
