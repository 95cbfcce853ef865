"""`python -m beam_pipelines` and `boceto prepare`."""

import contextlib
import gc
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from boceto import process
from boceto.console import Console, quiet, run_program
from boceto.settings import parse

# Clients of MongoDB and of Google Cloud, which Beam imports where they are installed and does without where not.
_CLIENTS = ("bson", "google.cloud.storage", "requests")


@contextlib.contextmanager
def _quick_imports(unused: Sequence[str]) -> Iterator[None]:
    """Within it, the modules `unused` cannot be imported for the first time, and no garbage is collected."""
    hidden: dict[str, Any] = {name: None for name in unused if name not in sys.modules}
    sys.modules.update(hidden)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        for name in hidden:
            del sys.modules[name]


def main(argv: Sequence[str]) -> int:
    """Runs `boceto prepare` with these words; returns the exit code."""
    from beam_pipelines.settings import Settings

    def work(console: Console) -> tuple[Mapping[str, Any], bool]:
        asked = parse(Settings, "prepare", argv, "Strokes to sharded TFRecords, with Apache Beam.", hands_on=True)
        # Beam tells of its fallbacks in many lines of log; its failures come as exceptions.
        logging.disable(logging.CRITICAL)
        try:
            # With another runner, Beam may have to use Google Cloud itself.
            with quiet(), _quick_imports(_CLIENTS if asked.settings.runner == "DirectRunner" else ()):
                from beam_pipelines.prepare import prepare

            gc.freeze()  # What the imports left stays for good: collecting garbage need not look at it again.
            return prepare(asked.settings, asked.rest, console), asked.json
        finally:
            logging.disable(logging.NOTSET)

    return run_program("prepare", work)


if __name__ == "__main__":
    process.end(main(sys.argv[1:]))
