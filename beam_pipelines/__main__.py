"""`python -m beam_pipelines` and `boceto prepare`."""

import gc
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from boceto.console import Console, run_program
from boceto.settings import parse


def main(argv: Sequence[str]) -> int:
    """Runs `boceto prepare` with these words; returns the exit code."""
    from beam_pipelines.settings import Settings

    def work(console: Console) -> tuple[Mapping[str, Any], bool]:
        asked = parse(Settings, "prepare", argv, "Strokes to sharded TFRecords, with Apache Beam.")
        # Beam tells of its fallbacks in many lines of log; its failures come as exceptions.
        logging.disable(logging.CRITICAL)
        try:
            from beam_pipelines.prepare import prepare

            gc.freeze()  # What the imports left stays for good: collecting garbage need not look at it again.
            return prepare(asked.settings, asked.rest, console), asked.json
        finally:
            logging.disable(logging.NOTSET)

    return run_program("prepare", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
