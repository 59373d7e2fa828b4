"""Local workers of Beam: `python -m pipelines.engines.beam_forkserver DRIVER_PID SOCKET` imports what stages need,
once, and forks.

A worker that is started anew imports torch and Beam for seconds, in each stage. Here one process of the build does that
while the driver still reads its source; each stage's workers are forks of it, ready at once, and gone with their models
when the stage is over.

The driver sends each worker's environment over SOCKET (a file descriptor) with one end of a connection of that worker's
own. Whoever ends closes what it holds: a worker ends with its connection, the parent of all with the driver.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path

LONGEST = 1 << 17
"""Bytes of one worker's environment; Linux sends as many in one piece."""
ROOT = Path(__file__).resolve().parents[2]
HELD: dict[str, socket.socket] = {}
"""In the driver: its connection to the parent of its workers."""


def parent() -> socket.socket:
    """In the driver: the connection to the parent of its workers, which is started at the first call."""
    if "parent" not in HELD:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [
            sys.executable,
            "-m",
            "pipelines.engines.beam_forkserver",
            str(os.getpid()),
            str(theirs.fileno()),
        ]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            words, pass_fds=[theirs.fileno()], start_new_session=True, env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        atexit.register(end, process, ours)
        HELD["parent"] = ours
    return HELD["parent"]


def end(process: subprocess.Popen, connection: socket.socket) -> None:
    """In the driver: end the parent of its workers, wherever it is; they have ended with their stages."""
    connection.close()
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:  # it is still importing
        process.kill()
        process.wait()


def serve(asked: socket.socket) -> None:
    """Fork a worker for each environment that comes, until the driver is gone.

    One thread alone may live here: a fork has none of the others, but the locks they hold.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none is waited for: the driver hears of a worker's end
    parent = os.getpid()
    while True:
        content, ends, _, _ = socket.recv_fds(asked, LONGEST, 1)
        if not content:
            return
        if os.fork() == 0:
            work(json.loads(content), socket.socket(fileno=ends[0]), parent)
        os.close(ends[0])


def work(environment: dict[str, str], driver: socket.socket, parent: int) -> None:
    """Be a worker of Beam in this process, and end it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(environment.pop("WORDWEAVE_FOLDER"))
    log = os.open(environment.pop("WORDWEAVE_LOG"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=leave, args=(driver, parent), daemon=True, name="leave-with-driver").start()
    try:
        from apache_beam.runners.worker import sdk_worker_main

        sdk_worker_main.main([])
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def leave(driver: socket.socket, parent: int) -> None:
    """End this process as soon as the driver lets go of it, or its parent is gone."""
    while os.getppid() == parent and not select.select([driver], [], [], 0.5)[0]:
        pass
    os._exit(0)


def warm() -> None:
    """Import what stages of speech need; others load what they need more, in each worker."""
    import torch  # noqa: F401
    from apache_beam.runners.worker import sdk_worker_main  # noqa: F401

    from aligners import pocketsphinx  # noqa: F401
    from pipelines.steps import fused as together  # noqa: F401
    from units.hubert import encoder as hubert  # noqa: F401


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver hears it, and lets go
    warm()
    serve(socket.socket(fileno=int(sys.argv[2])))
    os._exit(0)  # at once, whatever the libraries want to tidy up
