"""The environment that libraries read once, when they are loaded. The only module of this program that touches it."""

import os

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
