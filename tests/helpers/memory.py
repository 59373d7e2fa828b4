"""The memory of a process of its own, in a test."""

import re
from pathlib import Path


def peak_memory() -> float:
    """Most memory this process held, MiB; `ru_maxrss` would start from what its parent held."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024
