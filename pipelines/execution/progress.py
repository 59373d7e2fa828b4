"""Progress of long work on stderr: a bar on a terminal, one line at the end elsewhere, nothing when quiet."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

QUIET = "WORDWEAVE_QUIET"
"""Environment variable that, not empty, turns messages and progress off, in worker processes too; errors stay."""

Show = Callable[[int, str], None]
"""Shows how much is done, and a note such as the real-time factor."""


def is_quiet() -> bool:
    """Whether messages and progress are off."""
    return bool(os.environ.get(QUIET))


def show_nothing(done: int, note: str = "") -> None:
    """Progress that is off."""


@contextmanager
def progress_bar(name: str, total: int, unit: str, *, quiet: bool = False) -> Iterator[Show]:
    """Show progress while the block runs; the function it gives takes what is done and a note.

    Args:
        total: how much there is to do.
        unit: what is counted, such as "task".
        quiet: show nothing.
    """
    if quiet or is_quiet():
        yield show_nothing
        return
    terminal = sys.stderr.isatty()  # into a file: one line when all is over, not one every half second
    last = (0, "")
    with tqdm(
        total=total, desc=name, unit=unit, unit_scale=total > 10_000, file=sys.stderr, dynamic_ncols=True,
        disable=not terminal,
    ) as bar:  # fmt: skip

        def show(done: int, note: str = "") -> None:
            nonlocal last
            last = done, note
            bar.set_postfix_str(note, refresh=False)
            bar.n = done
            bar.refresh()

        try:
            yield show
        finally:
            if not terminal:
                done, note = last
                print(f"{name}: {done}/{total} {unit}s{', ' if note else ''}{note}", file=sys.stderr)
