"""The fork server of Beam's local workers: it imports what stages need, once, and forks a worker for each request.

    python -m pipelines.engines.beam_forkserver DRIVER_PID SOCKET MODULE...

A worker that is started afresh imports torch and Beam for seconds, in each stage. Here one process of the build does
that while the driver still reads its source; each stage's workers are forks of it, ready at once, and end with their
models when the stage is over.

The driver sends each worker's environment over SOCKET (a file descriptor) with one end of a connection to that worker
alone. Each process ends when its connection closes: a worker with its own, the fork server with the driver's.
"""

import atexit
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

MAX_REQUEST = 1 << 17
"""Bytes of one worker's environment; Linux sends as many in one piece."""
ROOT = Path(__file__).resolve().parents[2]
CONNECTION: list[socket.socket] = []
"""In the driver: its connection to the fork server, once started."""


def forkserver_connection(modules: Sequence[str]) -> socket.socket:
    """In the driver: the connection to the fork server, which is started at the first call.

    Args:
        modules: names of modules that it imports before the first fork.
    """
    if not CONNECTION:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        numbers = [str(os.getpid()), str(theirs.fileno())]
        command = [sys.executable, "-m", "pipelines.engines.beam_forkserver", *numbers, *modules]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], start_new_session=True, env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        atexit.register(end_forkserver, process, ours)
        CONNECTION.append(ours)
    return CONNECTION[0]


def end_forkserver(process: subprocess.Popen, connection: socket.socket) -> None:
    """In the driver: end the fork server, whatever it does; workers have ended with their stages."""
    connection.close()
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:  # it is still importing
        process.kill()
        process.wait()


def serve_forks(requests: socket.socket) -> None:
    """Fork a worker for each environment that comes, until the driver ends.

    This process must have one thread only: a fork has none of the others, but the locks they hold.
    """
    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # nobody waits for workers: the driver sees their connection close
    forkserver = os.getpid()
    while True:
        content, ends, _, _ = socket.recv_fds(requests, MAX_REQUEST, 1)
        if not content:
            return
        if os.fork() == 0:
            run_worker(json.loads(content), socket.socket(fileno=ends[0]), forkserver)
        os.close(ends[0])


def run_worker(environment: dict[str, str], driver: socket.socket, forkserver: int) -> None:
    """Run a Beam worker in this process, and end it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(environment.pop("WORDWEAVE_FOLDER"))
    log = os.open(environment.pop("WORDWEAVE_LOG"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(
        target=exit_with_driver, args=(driver, forkserver), daemon=True, name="exit-with-driver"
    ).start()
    try:
        from apache_beam.runners.worker import sdk_worker_main

        sdk_worker_main.main([])
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def exit_with_driver(driver: socket.socket, forkserver: int) -> None:
    """End this process as soon as the driver closes its connection, or the fork server is gone."""
    while os.getppid() == forkserver and not select.select([driver], [], [], 0.5)[0]:
        pass
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which closes its connection
    for module in sys.argv[3:]:
        importlib.import_module(module)
    serve_forks(socket.socket(fileno=int(sys.argv[2])))
    os._exit(0)  # at once, whatever the libraries want to tidy up
