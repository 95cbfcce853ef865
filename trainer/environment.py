"""The environment as TensorFlow and Keras need it. The only module of the trainer that touches it."""

import os


def prepare() -> None:
    """Sets what TensorFlow and Keras read when they are imported; what is already set stays."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Errors only: what it says of the machine helps nobody.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # The loop is TensorFlow's, whatever ~/.keras says.
