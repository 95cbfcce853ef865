"""The environment as TensorFlow and Keras need it. The only module of the trainer that touches it."""

import os
from dataclasses import dataclass

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True)
class Pod:
    """Where a pod finds the API of its cluster. account: the folder with its token, namespace and ca.crt."""

    host: str
    port: int
    job: str
    account: str = ACCOUNT


def pod() -> Pod | None:
    """The pod that this is, where its Job is to be told of the progress (`k8s/components/progress` names it)."""
    job, host = os.environ.get("BOCETO_JOB"), os.environ.get("KUBERNETES_SERVICE_HOST")
    if not job or not host:
        return None
    return Pod(host, int(os.environ.get("KUBERNETES_SERVICE_PORT", "443")), job)


def prepare() -> None:
    """Sets what TensorFlow and Keras read when they are imported; what is already set stays."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Errors only: what it says of the machine helps nobody.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # The loop is TensorFlow's, whatever ~/.keras says.
