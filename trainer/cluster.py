"""Writes the progress of a run as annotations on its Kubernetes Job, where `kubectl` shows them.

The request is plain HTTP with the token of the pod, so the image needs no Kubernetes client. The pod has the right to
this request alone (`k8s/components/progress`). No run fails, or waits, for its annotations.
"""

import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping

from boceto import storage
from trainer.environment import Pod

EVERY = 10.0  # Seconds between two writes, at least.
TIMEOUT = 3.0  # Seconds for one, at most.
PREFIX = "boceto.dev/"
_CREATED = 300  # HTTP: below it, all is well.


@contextlib.contextmanager
def reporting(
    pod: Pod | None, annotations: Callable[[], Mapping[str, str]], alert: Callable[[str], None]
) -> Iterator[None]:
    """Writes `annotations()` on the Job while the block runs, and once at its end; without a pod nothing happens.

    A thread calls `annotations`. The first failure is reported to `alert`.
    """
    if pod is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_report, args=(pod, annotations, alert, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _report(
    pod: Pod, annotations: Callable[[], Mapping[str, str]], alert: Callable[[str], None], over: threading.Event
) -> None:
    written: Mapping[str, str] = {}
    alerted = False
    while True:
        last = over.wait(EVERY)
        now = annotations()
        if now != written:
            why = write(pod, now)
            written = written if why else now
            if why and not alerted:
                alerted = True
                alert(f"the progress cannot be written on Job {pod.job}: {why}; the run goes on without it")
        if last:
            return


def write(pod: Pod, texts: Mapping[str, str]) -> str:
    """Writes annotations on the Job; returns the reason of a failure, "" where there is none."""
    annotations = {PREFIX + name: text for name, text in texts.items()}
    try:
        # Read each time: tokens are renewed.
        token = storage.read_bytes(f"{pod.account}/token").decode()
        namespace = storage.read_bytes(f"{pod.account}/namespace").decode()
        trusted = ssl.create_default_context(cafile=f"{pod.account}/ca.crt")
        link = http.client.HTTPSConnection(pod.host, pod.port, timeout=TIMEOUT, context=trusted)
        with contextlib.closing(link):
            link.request(
                "PATCH",
                f"/apis/batch/v1/namespaces/{namespace}/jobs/{pod.job}?fieldManager=boceto-trainer",
                json.dumps({"metadata": {"annotations": annotations}}),
                {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"},
            )
            answer = link.getresponse()
            answer.read()
            return "" if answer.status < _CREATED else f"the API answers {answer.status} {answer.reason}"
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
