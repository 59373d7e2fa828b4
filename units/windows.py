"""How a recording that is too long to be encoded at once is cut: overlapping windows, of which the middle is kept."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Frames [begin, end) encoded at once, of which `kept` from `first` on are those of the recording from `place`."""

    begin: int
    end: int
    first: int
    kept: int
    place: int


def windows(frames: int, window: int, context: int) -> list[Window]:
    """The windows in which a recording is encoded: one, or overlapping ones of which the middle is kept.

    >>> [(w.begin, w.end, w.first, w.kept, w.place) for w in windows(10, 6, 1)]
    [(0, 5, 0, 4, 0), (3, 9, 1, 4, 4), (7, 10, 1, 2, 8)]
    """
    if frames <= window:
        return [Window(0, frames, 0, frames, 0)] if frames else []
    core = window - 2 * context
    return [
        Window(
            max(0, first - context),
            min(frames, first + core + context),
            min(first, context),
            min(core, frames - first),
            first,
        )
        for first in range(0, frames, core)
    ]


def window_frames(
    window_seconds: float, context_seconds: float, frame_rate: float, longest: float = math.inf
) -> tuple[int, int]:
    """Frames of a window, and of the context discarded at either of its inner edges.

    Args:
        longest: seconds that a window may have.

    Raises:
        ValueError: the window is not longer than both contexts, or too long.

    >>> window_frames(30.0, 5.0, 25.0)
    (750, 125)
    """
    if not 0 <= 2 * context_seconds < window_seconds <= longest:
        limit = "" if longest == math.inf else f" and at most {longest:g}"
        raise ValueError(
            f"encoder.window_seconds: need more than twice context_seconds{limit}, "
            f"got {window_seconds} and {context_seconds}"
        )
    return max(1, int(window_seconds * frame_rate)), int(context_seconds * frame_rate)
