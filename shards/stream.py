"""Units, pitch and style merged in time into one speech stream, and split again (SPEC 4.1 and 4.2)."""

import math
import re
from collections.abc import Sequence

import numpy as np

from shards.vocabulary import Vocabulary

PITCH_RATE = 12.5
STYLE_RATE = 1.0
"""Hz, the rates of Spirit LM: defaults for its tokens. Builds note the rates of their own tokenizers."""

_KINDS = ("St", "Pi", "Hu")  # in their order at equal times


class _Names(dict[int, str]):
    """Name of a token by 3 * value + kind, cached: a look-up is five times faster than formatting."""

    def __missing__(self, key: int) -> str:
        name = self[key] = f"[{_KINDS[key % 3]}{key // 3}]"
        return name


class _Keys(dict[str, int]):
    """The inverse of `_Names`, for names between these brackets; -1 for anything else."""

    def __init__(self, left: str, right: str):
        self.token = re.compile(left + r"(Hu|Pi|St)(0|[1-9][0-9]{0,17})" + right)

    def __missing__(self, name: str) -> int:
        match = self.token.fullmatch(name)
        if match is None:
            return -1
        key = self[name] = 3 * int(match[2]) + _KINDS.index(match[1])
        return key


_names, _keys, _bare_keys = _Names(), _Keys(r"\[", r"\]"), _Keys("", "")


def merge(
    units: Sequence[int] | np.ndarray,
    pitch: Sequence[int] | np.ndarray | None = None,
    style: Sequence[int] | np.ndarray | None = None,
    *,
    unit_rate: float,
    pitch_rate: float = PITCH_RATE,
    style_rate: float = STYLE_RATE,
) -> list[str]:
    """Names of the merged stream, in order of time; at equal times style, then pitch, then unit.

    Value i of a stream has time i / rate. Units and pitch are deduplicated, each within its own stream, and a run has
    the time of its first value; style is not deduplicated. Durations are lost: `split` returns runs, not frames.

    Args:
        units: (F,) one unit per frame.
        pitch, style: (P,), (S,) at their own rates, or None.
        unit_rate, pitch_rate, style_rate: Hz. Spirit LM merges with unit_rate=24.99.

    Raises:
        ValueError: a value that is not a whole number >= 0, or a rate that is not above 0.

    Source: SPEC 4.1, after the released code of Spirit LM.

    >>> merge([28, 28, 22, 15], [0, 0, 14], [10], unit_rate=25.0)
    ['[St10]', '[Pi0]', '[Hu28]', '[Hu22]', '[Hu15]', '[Pi14]']
    """
    kinds, values = _merge(units, pitch, style, unit_rate, pitch_rate, style_rate)
    return list(map(_names.__getitem__, (3 * values + kinds).tolist()))


def merge_ids(
    units: np.ndarray,
    pitch: np.ndarray | None = None,
    style: np.ndarray | None = None,
    *,
    vocabulary: Vocabulary,
    unit_rate: float,
    pitch_rate: float | None = None,
    style_rate: float | None = None,
    first: int = 0,
    last: int | None = None,
) -> np.ndarray:
    """Ids of the merged stream of frames [first, last): what a speech span holds.

    A span that starts inside the utterance repeats the style and the pitch in force there before its first unit, so
    that it can be read without what came before. Without pitch and style this is the deduplicated slice of units.
    `pitch_rate` and `style_rate` are needed only with pitch and style.

    Returns:
        (N,) int32 ids of units, pitch and style.
    """
    last = len(units) if last is None else last
    if first == 0 and last == len(units):
        kinds, values = _merge(units, pitch, style, unit_rate, pitch_rate, style_rate)
    else:
        span = np.asarray(units[first:last])
        if len(span) == 0:
            return np.zeros(0, dtype=np.int32)
        begin, end = first / unit_rate, last / unit_rate
        columns = [
            _slice("style", style, style_rate, begin, end),
            _slice("pitch", pitch, pitch_rate, begin, end, deduplicated=True),
            (np.arange(first, last) / unit_rate, span),
        ]
        columns[2] = _first_of_runs(*columns[2])
        kinds, values = _sort(columns)
    offsets = np.array([vocabulary.first_style, vocabulary.first_pitch, vocabulary.first_unit])
    return (values + offsets[kinds]).astype(np.int32)


def merge_spans(
    units: Sequence[np.ndarray],
    pitch: Sequence[np.ndarray] | None,
    style: Sequence[np.ndarray] | None,
    owners: np.ndarray,
    firsts: np.ndarray,
    lasts: np.ndarray,
    *,
    vocabulary: Vocabulary,
    unit_rate: float,
    pitch_rate: float | None = None,
    style_rate: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What `merge_ids` gives for each of many spans of many utterances, in one pass.

    Args:
        units, pitch, style: of each utterance.
        owners: (S,) number of the utterance of each span.
        firsts, lasts: (S,) its frames [first, last).

    Returns:
        ids: (N,) int32 of all spans, one after another.
        counts: (S,) ids of each span.
    """
    streams = [
        (values, check_rate(name, rate), first_id, _lengths(values))
        for name, values, rate, first_id in (
            ("style", style, style_rate, vocabulary.first_style),
            ("pitch", pitch, pitch_rate, vocabulary.first_pitch),
            ("unit", units, unit_rate, vocabulary.first_unit),
        )
        if values is not None
    ]
    # ranks instead of times: integers, so that one key sorts spans and times
    times = [np.arange(lengths.max() + 1) / rate for _, rate, _, lengths in streams]
    distinct, ranks = np.unique(np.concatenate(times), return_inverse=True)
    of_stream = np.split(ranks, np.cumsum([len(one) for one in times])[:-1])
    begins, ends = firsts / unit_rate, lasts / unit_rate
    earliest = of_stream[-1][firsts] + np.arange(len(owners)) * len(distinct)
    empty, whole = firsts == lasts, (firsts == 0) & (lasts == streams[-1][3][owners])
    columns = []
    for (values, _, first_id, lengths), rank, at in zip(streams, of_stream, times, strict=True):
        active, stops = firsts, lasts
        if values is not units:
            sizes = lengths[owners]
            active = np.maximum(np.minimum(at.searchsorted(begins, "right"), sizes) - 1, 0)
            stops = np.maximum(np.minimum(at.searchsorted(ends), sizes), active + 1)
            stops = np.where(whole, sizes, np.minimum(stops, sizes))
            stops[empty] = active[empty]
        counts = stops - active
        spans = np.arange(len(owners)).repeat(counts)
        index = np.arange(len(spans)) + (active - np.cumsum(counts) + counts).repeat(counts)
        offsets = (np.cumsum(lengths) - lengths)[owners]
        ids = np.concatenate(values)[index + offsets[spans]]
        if values is not style:
            mask = np.ones(len(ids), dtype=bool)
            mask[1:] = (ids[1:] != ids[:-1]) | (spans[1:] != spans[:-1])
            spans, index, ids = spans[mask], index[mask], ids[mask]
        keys = np.maximum(rank[index] + spans * len(distinct), earliest[spans])
        columns.append((keys, spans, ids.astype(np.int32) + np.int32(first_id)))
    keys, spans, ids = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.argsort(keys, kind="stable")  # at equal times style, then pitch, then unit
    return ids[order], np.bincount(spans, minlength=len(owners))


def split(tokens: Sequence[str] | str) -> tuple[list[int], list[int] | None, list[int] | None]:
    """Split a merged stream: for every unit the pitch and style in force there.

    Units before the first pitch (or style) token get the first one. A pitch token that is followed by another one
    before any unit is lost, as in the released code. A stream without pitch or style gives None for it.

    Returns:
        units, pitch, style: three lists of one length.

    Raises:
        ValueError: a token is not a speech token.

    >>> split("[St81][Hu78][Pi13][Hu42][Hu81][Hu159][Hu316][Pi3][Hu259]")
    ([78, 42, 81, 159, 316, 259], [13, 13, 13, 13, 13, 3], [81, 81, 81, 81, 81, 81])
    """
    known, names = _keys, tokens
    if isinstance(tokens, str):
        known, names = _bare_keys, tokens[1:-1].split("][") if tokens else []
        if tokens and not (tokens[0] == "[" and tokens[-1] == "]"):
            raise ValueError(f"stream: need [HuN], [PiN] and [StN] only, got {tokens[:20]!r}")
    keys = np.fromiter(map(known.__getitem__, names), np.int64, len(names))
    if (keys < 0).any():
        wrong = names[int((keys < 0).argmax())]
        raise ValueError(f"stream: need [HuN], [PiN] and [StN] only, got {wrong[:20]!r}")
    values, kinds = np.divmod(keys, 3)
    indices = np.flatnonzero(kinds == 2)
    pitch, style = (_in_force(values, kinds == kind, indices) for kind in (1, 0))
    return values[indices].tolist(), pitch, style


def _in_force(values: np.ndarray, chosen: np.ndarray, indices: np.ndarray) -> list[int] | None:
    """The last chosen value at or before each index; before the first one, the first. None if none is chosen."""
    if not chosen.any():
        return None
    before = np.cumsum(chosen)[indices] - 1
    return values[chosen][np.maximum(before, 0)].tolist()


def _merge(
    units: Sequence[int] | np.ndarray,
    pitch: Sequence[int] | np.ndarray | None,
    style: Sequence[int] | np.ndarray | None,
    unit_rate: float,
    pitch_rate: float | None,
    style_rate: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Whole streams -> kinds (0 style, 1 pitch, 2 unit) and values, in order."""
    columns = []
    for name, values, rate, deduplicated in (
        ("style", style, style_rate, False),
        ("pitch", pitch, pitch_rate, True),
        ("unit", units, unit_rate, True),
    ):
        array = np.asarray(() if values is None else values)
        if array.size and (array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0):
            raise ValueError(f"stream: need integers >= 0 of shape (N,), got {array.dtype} {array.shape}")
        array = array.astype(np.int64)
        times = np.zeros(0) if values is None else np.arange(len(array)) / check_rate(name, rate)
        columns.append(_first_of_runs(times, array) if deduplicated else (times, array))
    return _sort(columns)


def check_rate(name: str, rate: float | None) -> float:
    """The rate of a stream, in Hz.

    Raises:
        ValueError: it is missing, or gives no times.
    """
    if rate is None or not 0 < rate < math.inf:
        raise ValueError(f"{name}_rate: need more than 0 Hz, got {rate}")
    return rate


def _lengths(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([len(one) for one in arrays])


def _sort(columns: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Stable merge of (times, values) columns, style first at equal times."""
    times = np.concatenate([times for times, _ in columns])
    values = np.concatenate([values for _, values in columns])
    kinds = np.repeat(np.arange(3), [len(times) for times, _ in columns])
    order = np.argsort(times, kind="stable")
    return kinds[order], values[order]


def _first_of_runs(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mask = np.ones(len(values), dtype=bool)
    mask[1:] = values[1:] != values[:-1]
    return times[mask], values[mask]


def _slice(
    name: str, values: np.ndarray | None, rate: float | None, begin: float, end: float, *, deduplicated: bool = False
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Column of pitch or style within [begin, end) seconds, the value in force at `begin` moved there."""
    if values is None or len(values) == 0:
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    all_times = np.arange(len(values)) / check_rate(name, rate)
    active = max(int(np.searchsorted(all_times, begin, side="right")) - 1, 0)
    stop = max(int(np.searchsorted(all_times, end, side="left")), active + 1)
    times = np.maximum(all_times[active:stop], begin)
    column = times, np.asarray(values[active:stop], dtype=np.int64)
    return _first_of_runs(*column) if deduplicated else column
