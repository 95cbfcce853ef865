"""The environment variables of the trainer. No other module of it reads or sets any."""

import os
from dataclasses import dataclass

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True)
class Pod:
    """The address of a cluster's API, and the Job of this pod. account: the folder of token, namespace and ca.crt."""

    host: str
    port: int
    job: str
    account: str = ACCOUNT


def pod() -> Pod | None:
    """Returns this pod, where its Job is to be annotated (`k8s/components/progress` sets BOCETO_JOB), else None."""
    job, host = os.environ.get("BOCETO_JOB"), os.environ.get("KUBERNETES_SERVICE_HOST")
    if not job or not host:
        return None
    return Pod(host, int(os.environ.get("KUBERNETES_SERVICE_PORT", "443")), job)


def prepare() -> None:
    """Sets the variables that TensorFlow and Keras read when they are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Errors only.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # Whatever ~/.keras holds.
