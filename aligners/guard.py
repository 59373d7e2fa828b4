"""Run a program so that nothing of it outlives the process that started it, even if that one is killed.

    python guard.py FOLDER COMMAND ...      # by `start`, with a pipe as stdin and in a process group of its own

Standard library only: it starts with every program, without the packages of the environment.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE = 5.0  # seconds between the request to end and the end: a container must receive it


def start(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a program in a process group of its own, its output in a pipe.

    When the calling process dies, the group is ended and `folder` deleted; processes that left the group are found by
    `folder` in their environment.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(folder), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )


def end_group(group: int, sign: int) -> None:
    """Send a signal to a process group, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, sign)


def kill_strays(folder: Path) -> None:
    """Kill processes outside the group (a database server) with `folder` in their environment; Linux only."""
    own = str(os.getpid())
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            values = [entry.partition(b"=")[2] for entry in path.read_bytes().split(b"\0")]
            inside = any(value == bytes(folder) or value.startswith(bytes(folder) + b"/") for value in values)
            if path.parent.name != own and inside:
                os.kill(int(path.parent.name), signal.SIGKILL)


def main(arguments: Sequence[str]) -> int:
    """Wait for the program, or for the end of the process at the other end of stdin."""
    folder, *command = arguments
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # the group gets it: the program ends, and its status is returned
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    restore = lambda: [signal.signal(sign, signal.SIG_DFL) for sign in (signal.SIGTERM, signal.SIGINT)]  # noqa: E731
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=restore)
    except OSError as error:
        print(f"{command[0]}: cannot be started ({error.strerror})", flush=True)
        return 127

    orphaned, swept = threading.Event(), threading.Event()

    def watch() -> None:
        os.read(0, 1)  # nothing is ever written: it returns when the other end is closed
        orphaned.set()
        end_group(os.getpgrp(), signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        kill_strays(Path(folder))
        shutil.rmtree(folder, ignore_errors=True)
        swept.set()
        end_group(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    status = process.wait()
    if orphaned.is_set():
        swept.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
