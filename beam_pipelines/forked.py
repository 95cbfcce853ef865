"""Worker processes for the DirectRunner that start at once, because they are forked after everything is imported.

It is ours because Beam's own ways to use several cores are threads, which share the interpreter's lock, and processes
that each start an interpreter and import everything again. These processes speak Beam's ordinary worker protocol
(`beam_fn_api.proto`, BeamFnExternalWorkerPool), so the runner sees an EXTERNAL environment and pipelines need not know.
"""

import contextlib
import gc
import json
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.portability.fn_api_runner.worker_handlers import FNAPI_RUNNER_CAPABILITIES
from apache_beam.runners.worker.sdk_worker import SdkHarness
from apache_beam.utils import thread_pool_executor

from boceto.errors import EXIT_FAULT

_STATE_CACHE = 100 << 20
_PARENT_SECONDS = 1.0


class _Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Hands each worker that the runner asks for to a process that waits."""

    def __init__(self, pipes: list[int]) -> None:
        self._pipes = pipes

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's name and arguments
        if not self._pipes:
            return beam_fn_api_pb2.StartWorkerResponse(error="all worker processes are taken")
        order = {"control": request.control_endpoint.url, "worker": request.worker_id}
        os.write(self._pipes.pop(), json.dumps(order).encode() + b"\n")
        return beam_fn_api_pb2.StartWorkerResponse()


def _serve(orders: int) -> None:
    """The life of a worker process: waits for its order, works, ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_SECONDS)
        os._exit(EXIT_FAULT)

    threading.Thread(target=watch, daemon=True).start()
    with os.fdopen(orders) as file:
        line = file.readline()
    if line:
        order = json.loads(line)
        SdkHarness(
            order["control"],
            worker_id=order["worker"],
            state_cache_size=_STATE_CACHE,
            data_buffer_time_limit_ms=-1,
            runner_capabilities=FNAPI_RUNNER_CAPABILITIES,
        ).run()


def _fork(others: list[int]) -> tuple[int, int]:
    """(process, the pipe that takes its order)."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python warns of threads it finds, such as a linear algebra library's, which have handlers for this.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process:
        os.close(reading)
        return process, writing
    code = EXIT_FAULT
    try:
        for pipe in [*others, writing]:
            os.close(pipe)
        # A failing step reaches the parent through Beam, where it becomes one line.
        logging.disable(logging.CRITICAL)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _serve(reading)
        code = 0
    finally:
        os._exit(code)


@contextlib.contextmanager
def forked_workers(count: int) -> Iterator[str]:
    """Forks `count` worker processes and yields the address at which a runner asks for them; ends them at the end.

    Call it before this process starts threads or opens channels of gRPC.
    """
    processes: list[int] = []
    pipes: list[int] = []
    gc.freeze()  # Collecting garbage would write to, and so copy, every page that the workers share with this process.
    for _ in range(count):
        process, pipe = _fork(pipes)
        processes.append(process)
        pipes.append(pipe)
    over = threading.Event()
    # Where a worker dies, Beam's threads that speak with it print what they think of it. They outlive a job that fails
    # or is stopped, and stay quiet to the end of the process.
    before, threading.excepthook = threading.excepthook, lambda _: None

    def watch(process: int) -> None:
        _, status = os.waitpid(process, 0)
        if not over.is_set() and status:
            # The runner would wait for it for ever.
            how = os.waitstatus_to_exitcode(status)
            message = f"boceto prepare: fault: a worker process ended with {how}; was memory short? run it again\n"
            os.write(2, message.encode())
            os._exit(EXIT_FAULT)

    watchers = [threading.Thread(target=watch, args=(process,), daemon=True) for process in processes]
    for watcher in watchers:
        watcher.start()
    server = grpc.server(thread_pool_executor.shared_unbounded_instance())
    port = server.add_insecure_port("localhost:0")
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(_Pool(list(pipes)), server)
    server.start()
    try:
        yield f"localhost:{port}"
        threading.excepthook = before
    finally:
        over.set()
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # As above: of workers that are gone.
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        for pipe in pipes:
            os.close(pipe)
        for watcher in watchers:
            watcher.join()
        server.stop(0)
