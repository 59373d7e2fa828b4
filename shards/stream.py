"""Units, pitch and style merged in time into one speech stream, and taken apart again (SPEC 4.1 and 4.2)."""

import re
from collections.abc import Sequence

import numpy as np

from shards.vocabulary import Vocabulary

PITCH_RATE = 12.5
STYLE_RATE = 1.0
"""Hz, the rates of Spirit LM."""

_TOKEN = re.compile(r"\[(Hu|Pi|St)(0|[1-9][0-9]*)\]")


def merge(
    units: Sequence[int] | np.ndarray,
    pitch: Sequence[int] | np.ndarray | None = None,
    style: Sequence[int] | np.ndarray | None = None,
    *,
    unit_rate: float,
    pitch_rate: float = PITCH_RATE,
    style_rate: float = STYLE_RATE,
) -> list[str]:
    """Names of the merged stream, in order of time; at one time style, then pitch, then unit.

    Value i of a stream stands at i / rate seconds. Units and pitch are deduplicated, each within its own stream, and
    a run stands where it begins; style never is. Durations are lost: `split` gives back runs, not frames.

    Args:
        units: (F,) one unit per frame.
        pitch, style: (P,), (S,) at their own rates, or None.
        unit_rate, pitch_rate, style_rate: Hz. Spirit LM merges with unit_rate=24.99.

    Source: SPEC 4.1, after the released code of Spirit LM.

    >>> merge([28, 28, 22, 15], [0, 0, 14], [10], unit_rate=25.0)
    ['[St10]', '[Pi0]', '[Hu28]', '[Hu22]', '[Hu15]', '[Pi14]']
    """
    kinds, values = _merge(units, pitch, style, unit_rate, pitch_rate, style_rate)
    return [f"[{('St', 'Pi', 'Hu')[kind]}{value}]" for kind, value in zip(kinds, values, strict=True)]


def merge_ids(
    units: np.ndarray,
    pitch: np.ndarray | None = None,
    style: np.ndarray | None = None,
    *,
    vocabulary: Vocabulary,
    unit_rate: float,
    pitch_rate: float = PITCH_RATE,
    style_rate: float = STYLE_RATE,
    first: int = 0,
    last: int | None = None,
) -> np.ndarray:
    """Ids of the merged stream of frames [first, last): what a speech span holds.

    A span that starts inside the utterance says again which style and which pitch are in force there, before its
    first unit: it can be read without what came before. Without pitch and style this is the deduplicated slice of
    units.

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
            _slice(style, style_rate, begin, end),
            _slice(pitch, pitch_rate, begin, end, deduplicated=True),
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
    pitch_rate: float = PITCH_RATE,
    style_rate: float = STYLE_RATE,
) -> tuple[np.ndarray, np.ndarray]:
    """What `merge_ids` gives for each of many spans of many utterances, in one pass.

    Args:
        units, pitch, style: of each utterance.
        owners: (S,) number of the utterance a span is of.
        firsts, lasts: (S,) its frames [first, last).

    Returns:
        ids: (N,) int32 of all spans, one after another.
        counts: (S,) ids of each span.
    """
    streams = [
        (one, rate, first_id, _lengths(one))
        for one, rate, first_id in (
            (style, style_rate, vocabulary.first_style),
            (pitch, pitch_rate, vocabulary.first_pitch),
            (units, unit_rate, vocabulary.first_unit),
        )
        if one is not None
    ]
    # ranks in place of times: whole numbers, to sort spans and times by one key
    times = [np.arange(lengths.max() + 1) / rate for _, rate, _, lengths in streams]
    distinct, ranks = np.unique(np.concatenate(times), return_inverse=True)
    of_stream = np.split(ranks, np.cumsum([len(one) for one in times])[:-1])
    begins, ends = firsts / unit_rate, lasts / unit_rate
    earliest = of_stream[-1][firsts] + np.arange(len(owners)) * len(distinct)
    empty, whole = firsts == lasts, (firsts == 0) & (lasts == streams[-1][3][owners])
    found = []
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
            kept = np.ones(len(ids), dtype=bool)
            kept[1:] = (ids[1:] != ids[:-1]) | (spans[1:] != spans[:-1])
            spans, index, ids = spans[kept], index[kept], ids[kept]
        keys = np.maximum(rank[index] + spans * len(distinct), earliest[spans])
        found.append((keys, spans, ids.astype(np.int32) + np.int32(first_id)))
    keys, spans, ids = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(keys, kind="stable")  # at one time style, then pitch, then unit
    return ids[order], np.bincount(spans, minlength=len(owners))


def split(tokens: Sequence[str] | str) -> tuple[list[int], list[int] | None, list[int] | None]:
    """Take a merged stream apart: for every unit the pitch and style in force there.

    Units before the first pitch (or style) token take the first one. A pitch token that another one overtakes before
    any unit is lost, as in the released code. A stream without pitch or style gives None for it.

    Returns:
        units, pitch, style: three lists of one length.

    Raises:
        ValueError: something is not a speech token.

    >>> split("[St81][Hu78][Pi13][Hu42][Hu81][Hu159][Hu316][Pi3][Hu259]")
    ([78, 42, 81, 159, 316, 259], [13, 13, 13, 13, 13, 3], [81, 81, 81, 81, 81, 81])
    """
    units: list[int] = []
    carried: dict[str, list[int | None]] = {"Pi": [], "St": []}
    current: dict[str, int | None] = {"Pi": None, "St": None}
    for name, value in _parse(tokens):
        if name == "Hu":
            units.append(value)
            for kind in carried:
                carried[kind].append(current[kind])
        else:
            if current[name] is None:
                carried[name] = [value] * len(units)
            current[name] = value
    pitch, style = (None if current[kind] is None else carried[kind] for kind in ("Pi", "St"))
    return units, pitch, style  # type: ignore[return-value]  # no None is left in a list that had a value


def _parse(tokens: Sequence[str] | str) -> list[tuple[str, int]]:
    text = tokens if isinstance(tokens, str) else None
    found: list[tuple[str, int]] = []
    position = 0
    for token in _TOKEN.finditer(text) if text is not None else map(_TOKEN.fullmatch, tokens):
        if token is None or (text is not None and token.start() != position):
            break
        found.append((token[1], int(token[2])))
        position = token.end()
    else:
        if text is None or position == len(text):
            return found
    rest = text[position : position + 20] if text is not None else tokens[len(found)]
    raise ValueError(f"stream: need [HuN], [PiN] and [StN] only, got {rest!r}")


def _merge(
    units: Sequence[int] | np.ndarray,
    pitch: Sequence[int] | np.ndarray | None,
    style: Sequence[int] | np.ndarray | None,
    unit_rate: float,
    pitch_rate: float,
    style_rate: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Whole streams -> kinds (0 style, 1 pitch, 2 unit) and values, in order."""
    columns = []
    for values, rate, deduplicated in (
        (style, style_rate, False),
        (pitch, pitch_rate, True),
        (units, unit_rate, True),
    ):
        if rate <= 0:
            raise ValueError(f"rate: need more than 0 Hz, got {rate}")
        found = np.asarray(() if values is None else values, dtype=np.int64)
        column = np.arange(len(found)) / rate, found
        columns.append(_first_of_runs(*column) if deduplicated else column)
    return _sort(columns)


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
    kept = np.ones(len(values), dtype=bool)
    kept[1:] = values[1:] != values[:-1]
    return times[kept], values[kept]


def _slice(
    values: np.ndarray | None, rate: float, begin: float, end: float, *, deduplicated: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Column of a slower stream within [begin, end) seconds, the value in force at `begin` put there."""
    if values is None or len(values) == 0:
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    all_times = np.arange(len(values)) / rate
    active = max(int(np.searchsorted(all_times, begin, side="right")) - 1, 0)
    stop = max(int(np.searchsorted(all_times, end, side="left")), active + 1)
    times = np.maximum(all_times[active:stop], begin)
    column = times, np.asarray(values[active:stop], dtype=np.int64)
    return _first_of_runs(*column) if deduplicated else column
