"""A local Beam worker that ends with its driver: `python -m pipelines.worker DRIVER_PID`.

Beam's own worker waits for ever when its driver is killed, and would go on writing beside the next run.
"""

import os
import sys
import threading
import time


def leave_with(driver: int) -> None:
    """End this process, from a thread, as soon as process `driver` is no longer its parent."""

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="leave-with-driver").start()


if __name__ == "__main__":
    leave_with(int(sys.argv[1]))
    from apache_beam.runners.worker import sdk_worker_main  # takes a second: the watch stands first

    sdk_worker_main.main(sys.argv[:1])
