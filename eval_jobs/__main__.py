"""The programs `boceto eval` and `boceto predict`."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from boceto.console import Console, quiet, run_program
from boceto.errors import BocetoError
from boceto.settings import parse
from eval_jobs.settings import PredictSettings, Settings

VERB = "eval"
DESCRIPTION = (
    "Scores a run's export: accuracy, mAP, a report and a picture. An export is a SavedModel, a program: it is refused "
    "where its graph reaches files, the network or Python, but evaluate no run of somebody you do not trust."
)
PREDICT = (
    "Predicts the classes of pictures, or of drawings in QuickDraw's .ndjson files, with a run's export. Bad inputs "
    "are listed beside the output, in NAME.refused.jsonl, and the others are predicted. An export is a program: use "
    "no run of somebody you do not trust."
)
# NumPy and TensorFlow read these when they are imported. What the user has set stays.
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "2",  # TensorFlow's own notes are not for people.
    "OPENBLAS_NUM_THREADS": "1",  # The ranking has its own threads; those of BLAS would compete with them for cores.
}


def main(argv: Sequence[str]) -> int:
    """Runs `boceto eval` with `argv`; returns the exit code."""

    def work(console: Console) -> tuple[Mapping[str, Any], bool]:
        invocation = parse(Settings, VERB, argv, DESCRIPTION)
        _set(ENVIRONMENT)
        with quiet():
            from eval_jobs import evaluate  # A wrong flag is reported before the second that numba and Pillow take.

        return evaluate.run(invocation.settings, console), invocation.json

    return run_program(VERB, work)


def predict(argv: Sequence[str]) -> int:
    """Runs `boceto predict` with `argv`; returns the exit code."""

    def work(console: Console) -> tuple[Mapping[str, Any], bool, BocetoError | None]:
        invocation = parse(PredictSettings, "predict", argv, PREDICT)
        _set({name: value for name, value in ENVIRONMENT.items() if name.startswith("TF_")})
        with quiet():
            from eval_jobs import predict

        show = console.line if invocation.json else print  # Standard output has one result.
        result, error = predict.run(invocation.settings, console, show)
        return result, invocation.json, error

    return run_program("predict", work)


def _set(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
