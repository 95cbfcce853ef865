"""Worker processes for the DirectRunner that start at once, because they are forked after everything is imported.

It is ours because Beam's own ways to use several cores are threads, which share the interpreter's lock, and processes
that each start an interpreter and import everything again. These processes speak Beam's ordinary worker protocol
(`beam_fn_api.proto`, BeamFnExternalWorkerPool), so the runner sees an EXTERNAL environment and pipelines need not know.
"""

import contextlib
import ctypes
import gc
import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.queues import SimpleQueue
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.portability.fn_api_runner.worker_handlers import FNAPI_RUNNER_CAPABILITIES
from apache_beam.runners.worker.sdk_worker import SdkHarness
from apache_beam.utils import thread_pool_executor

from boceto.errors import EXIT_FAULT

_STATE_CACHE = 100 << 20
_PDEATHSIG = 1  # prctl's number for: send me this signal when my parent ends.

Orders = SimpleQueue[tuple[str, str]]  # The runner's address, and the name of a worker.


class _Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Hands each worker that the runner asks for to a process that waits."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's name and arguments
        self._orders.put((request.control_endpoint.url, request.worker_id))
        return beam_fn_api_pb2.StartWorkerResponse()


def _serve(orders: Orders) -> None:
    """The life of a worker process: waits for its order, works, ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL.value)
    # A failing step reaches the parent through Beam, where it becomes one line.
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    address, worker = orders.get()
    SdkHarness(
        address,
        worker_id=worker,
        state_cache_size=_STATE_CACHE,
        data_buffer_time_limit_ms=-1,
        runner_capabilities=FNAPI_RUNNER_CAPABILITIES,
    ).run()


@contextlib.contextmanager
def forked_workers(count: int) -> Iterator[str]:
    """Forks `count` worker processes and yields the address at which a runner asks for them; ends them at the end.

    Call it before this process starts threads or opens channels of gRPC.
    """
    context = multiprocessing.get_context("fork")
    orders: Orders = context.SimpleQueue()
    workers = [context.Process(target=_serve, args=(orders,), daemon=True) for _ in range(count)]
    gc.freeze()  # Collecting garbage would write to, and so copy, every page that the workers share with this process.
    with warnings.catch_warnings():
        # Python warns of threads it finds, such as a linear algebra library's, which have handlers for this.
        warnings.simplefilter("ignore", DeprecationWarning)
        for worker in workers:
            worker.start()
    over = threading.Event()
    # Where a worker dies, Beam's threads that speak with it print what they think of it. They outlive a job that fails
    # or is stopped, and stay quiet to the end of the process.
    before, threading.excepthook = threading.excepthook, lambda _: None

    def watch() -> None:
        running = workers
        while running:
            connection.wait([worker.sentinel for worker in running])
            for worker in running:
                if worker.exitcode and not over.is_set():
                    # The runner would wait for it for ever.
                    how = f"a worker process ended with {worker.exitcode}; was memory short? run it again"
                    os.write(2, f"boceto prepare: fault: {how}\n".encode())
                    os._exit(EXIT_FAULT)
            running = [worker for worker in running if worker.exitcode is None]

    threading.Thread(target=watch, daemon=True).start()
    server = grpc.server(thread_pool_executor.shared_unbounded_instance())
    port = server.add_insecure_port("localhost:0")
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(_Pool(orders), server)
    server.start()
    try:
        yield f"localhost:{port}"
        threading.excepthook = before
    finally:
        over.set()
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # As above: of workers that are gone.
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        server.stop(0)
