"""The environment that libraries read once, when they are loaded. The only module of this program that touches it."""

import contextlib
import os
import sys
from collections.abc import Iterator

DEFAULTS = {
    # TensorFlow's own notes are not for people.
    "TF_CPP_MIN_LOG_LEVEL": "2",
    # The ranking has threads of its own; those of BLAS would wait for each other, and spin on cores that it needs.
    "OPENBLAS_NUM_THREADS": "1",
}


def prepare() -> None:
    """Sets what is not set. To be called before NumPy and TensorFlow are imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what native code writes to standard error in the block: TensorFlow tells of the processor there when it is
    imported, whatever the log level. Python's exceptions are raised as ever.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path of the user's
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
