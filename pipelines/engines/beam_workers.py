"""Beam's local runner with worker processes forked by the fork server: the driver's side."""

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
from apache_beam.transforms.environments import Environment, python_sdk_capabilities
from google.protobuf import json_format, text_format

from pipelines.engines.beam_forkserver import forkserver_connection

URN = "wordweave:env:forked:v1"


@Environment.register_urn(URN, bytes)
class ForkedEnvironment(Environment):
    """Names `ForkedWorker` to the local runner; `log` receives the stderr of workers, `preload` are modules."""

    def __init__(self, log: str, preload: Sequence[str]):
        super().__init__(python_sdk_capabilities(), ())
        self.log, self.preload = log, list(preload)

    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return URN, json.dumps([self.log, self.preload]).encode()

    @staticmethod
    def from_runner_api_parameter(payload: bytes, *_: Any) -> "ForkedEnvironment":
        return ForkedEnvironment(*json.loads(payload))


@WorkerHandler.register_environment(URN, bytes)
class ForkedWorker(GrpcWorkerHandler):
    """One worker process, as the runner sees it."""

    def __init__(self, payload: bytes, *arguments: Any):
        super().__init__(*arguments)
        self._log, self._preload = json.loads(payload)
        self._closing = False

    def start_worker(self) -> None:
        """Request a fork, and watch it from a thread."""
        options = self.provision_info.provision_info.pipeline_options
        environment = {
            **os.environ,  # of now: the fork server has that of its own start
            "WORDWEAVE_FOLDER": os.getcwd(),
            "WORDWEAVE_LOG": self._log,
            "WORKER_ID": self.worker_id,
            "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(
                self.control_api_service_descriptor()
            ),
            "PIPELINE_OPTIONS": json_format.MessageToJson(options),
        }
        self._connection, theirs = socket.socketpair()
        try:
            server = forkserver_connection(self._preload)
            socket.send_fds(server, [json.dumps(environment).encode()], [theirs.fileno()])
        except OSError:
            worker_died()
        theirs.close()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watch-worker")
        self._thread.start()

    def close(self) -> None:
        """Its tasks are done, or no longer wanted: its end is no failure."""
        self._closing = True
        try:
            super().close()
        except grpc.RpcError:  # its connection broke first: Ctrl-C reaches workers too
            self.stop_worker()

    def stop_worker(self) -> None:
        """Close its connection; it ends with it."""
        self._connection.shutdown(socket.SHUT_WR)
        self._thread.join(timeout=10)
        self._connection.close()

    def _watch(self) -> None:
        self._connection.recv(1)  # receives nothing but the end
        if not self._closing:
            worker_died()


@contextlib.contextmanager
def silence_lost_connections() -> Iterator[None]:
    """Silence Beam's threads when a worker's connection breaks: `ForkedWorker` reports that it died."""
    before = threading.excepthook
    logger = logging.getLogger("apache_beam.runners.worker.data_plane")

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, grpc.RpcError):
            before(arguments)

    def is_other(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], grpc.RpcError))

    threading.excepthook = hook
    logger.addFilter(is_other)
    try:
        yield
    finally:
        threading.excepthook = before
        logger.removeFilter(is_other)


def worker_died() -> None:
    """End this process with one clear line: Beam's local runner would wait for a killed worker forever.

    Nothing is lost: finished parts keep their done markers, the other workers end with this process, and the same
    command resumes.
    """
    line = (
        "a worker process died, killed or out of memory; finished parts are kept: run the same command again"
    )
    os.write(2, f"\nwordweave: {line}, or with fewer --workers\n".encode())
    os._exit(1)
