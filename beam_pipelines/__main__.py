"""`python -m beam_pipelines` and `boceto prepare`."""

import gc
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from boceto import process
from boceto.console import Console, quiet, run_program
from boceto.settings import parse


def main(argv: Sequence[str]) -> int:
    """Runs `boceto prepare` with these words; returns the exit code."""
    from beam_pipelines.settings import Settings

    def work(console: Console) -> tuple[Mapping[str, Any], bool]:
        asked = parse(Settings, "prepare", argv, "Drawings to sharded TFRecords, with Apache Beam.", hands_on=True)
        # Beam reports its fallbacks in many lines of log; its failures come as exceptions.
        logging.disable(logging.CRITICAL)
        gc.disable()  # What the imports make stays for good: collecting garbage need not look at it.
        try:
            with quiet():
                from beam_pipelines.prepare import prepare

            gc.freeze()
            gc.enable()
            return prepare(asked.settings, asked.rest, console), asked.json
        finally:
            gc.enable()
            logging.disable(logging.NOTSET)

    return run_program("prepare", work)


if __name__ == "__main__":
    process.end(main(sys.argv[1:]))
