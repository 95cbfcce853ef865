"""The environment that libraries read once, when they are loaded. The only module of this program that touches it."""

import os

DEFAULTS = {
    # TensorFlow's own notes are not for people.
    "TF_CPP_MIN_LOG_LEVEL": "2",
    # OpenBLAS's threads wait for more work by spinning, 2**26 ticks as they come, on cores that the ranking needs.
    "OPENBLAS_THREAD_TIMEOUT": "4",
}


def prepare() -> None:
    """Sets what is not set. To be called before NumPy and TensorFlow are imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
