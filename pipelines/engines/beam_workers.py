"""Beam's local runner with worker processes that are forked, not started anew: the driver's side of `worker`."""

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
from apache_beam.transforms.environments import Environment, python_sdk_capabilities
from google.protobuf import json_format, text_format

from pipelines.engines.beam_forkserver import parent

URN = "wordweave:env:forked:v1"


@Environment.register_urn(URN, bytes)
class ForkedEnvironment(Environment):
    """Names `ForkedWorker` to the local runner; `log` takes what workers say."""

    def __init__(self, log: str):
        super().__init__(python_sdk_capabilities(), ())
        self.log = log

    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return URN, self.log.encode()

    @staticmethod
    def from_runner_api_parameter(payload: bytes, *_: Any) -> "ForkedEnvironment":
        return ForkedEnvironment(payload.decode())


@WorkerHandler.register_environment(URN, bytes)
class ForkedWorker(GrpcWorkerHandler):
    """One worker process, as the runner sees it."""

    def __init__(self, log: bytes, *given: Any):
        super().__init__(*given)
        self._log = log.decode()
        self._let_go = False

    def start_worker(self) -> None:
        """Have it forked, and watch it from a thread."""
        options = self.provision_info.provision_info.pipeline_options
        environment = {
            **os.environ,  # of now: the parent of the workers has that of its own start
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
            socket.send_fds(parent(), [json.dumps(environment).encode()], [theirs.fileno()])
        except OSError:
            worker_died()
        theirs.close()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watch-worker")
        self._thread.start()

    def close(self) -> None:
        """Let go of it: all it was given is done, or no longer wanted."""
        self._let_go = True
        super().close()

    def stop_worker(self) -> None:
        """Close its connection, with which it ends."""
        self._connection.shutdown(socket.SHUT_WR)
        self._thread.join(timeout=10)
        self._connection.close()

    def _watch(self) -> None:
        self._connection.recv(1)  # nothing ever comes but the end
        if not self._let_go:
            worker_died()


@contextlib.contextmanager
def no_talk_of_lost_connections() -> Iterator[None]:
    """Leave out what Beam's threads say when a worker's connection breaks: `ForkedWorker` says that it died."""
    before = threading.excepthook
    talker = logging.getLogger("apache_beam.runners.worker.data_plane")

    def hook(raised: threading.ExceptHookArgs) -> None:
        if not isinstance(raised.exc_value, grpc.RpcError):
            before(raised)

    def said_by_us(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], grpc.RpcError))

    threading.excepthook = hook
    talker.addFilter(said_by_us)
    try:
        yield
    finally:
        threading.excepthook = before
        talker.removeFilter(said_by_us)


def worker_died() -> None:
    """Leave with one clear line: Beam's local runner would wait for ever on a killed worker.

    Nothing is lost: finished parts keep their done markers, the other workers end with this process, and the same
    command goes on.
    """
    line = (
        "a worker process died, killed or out of memory; finished parts are kept: run the same command again"
    )
    os.write(2, f"\nwordweave: {line}, or with fewer --workers\n".encode())
    os._exit(1)
