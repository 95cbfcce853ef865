"""The environment as TensorFlow and Keras need it. The only module of the trainer that touches it."""

import contextlib
import os
import sys
from collections.abc import Iterator


def prepare() -> None:
    """Sets what TensorFlow and Keras read when they are imported; what is already set stays."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Errors only: what it says of the machine helps nobody.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # The loop is TensorFlow's, whatever ~/.keras says.


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what native code writes to standard error in the block: TensorFlow's import tells of the processor there,
    whatever the log level. Python's exceptions are raised as ever.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
