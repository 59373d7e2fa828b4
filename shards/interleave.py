"""Put the tokens of an utterance into one sequence whose spans switch between text and speech (SPEC 5 and 6).

Where the spans are is decided in `shards.strategies`. What does not depend on the strategy is decided once, here:

- a marker precedes every span, the first one included, and is nowhere else;
- a frame belongs to the word that holds its centre, words meet in the middle of the silence between them, and silence
  at either end goes to the outer word (`TokenizedUtterance.unit_cuts`);
- raw units are cut first and deduplicated inside their span, so a run that crosses a switch is written on both sides
  that hold a frame of it;
- with pitch and style, a speech span repeats those in force at its start (`stream.merge_ids`);
- one utterance is one sequence; spans never cross utterances.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from shards.strategies import Span, Spans, Strategy, draw_spans
from shards.stream import merge_ids, merge_spans
from shards.utterance import TokenizedUtterance, find_runs, frame_centres
from shards.vocabulary import Vocabulary


def interleave(
    utterance: TokenizedUtterance, strategy: Strategy | str, rng: np.random.Generator
) -> list[int]:
    """Ids of one interleaved sequence, markers included; `sequence.document` adds BOS and EOS.

    Args:
        strategy: a name, or settings from `strategies.make_strategy`.

    Raises:
        ValueError: the utterance has no words, there is no such strategy, or the vocabulary lacks its markers.
    """
    return interleave_spans(utterance, draw_spans(utterance.words, strategy, rng)).tolist()


def interleave_spans(utterance: TokenizedUtterance, spans: Sequence[Span]) -> np.ndarray:
    """Ids of the sequence with these spans: (N,) int32."""
    _check_task_markers([spans], utterance.vocabulary)
    with_prosody = utterance.pitch is not None or utterance.style is not None
    text, text_cuts, unit_cuts = utterance.text, utterance.text_cuts, utterance.unit_cuts
    if len(spans) > _MANY and not with_prosody:
        columns = (spans if isinstance(spans, Spans) else Spans(spans)).columns
        return _concatenate(text, utterance.runs, text_cuts, unit_cuts, columns, utterance.vocabulary)[0]
    markers = utterance.vocabulary.marker_arrays
    runs, begins, ends = utterance.runs
    parts: list[np.ndarray] = []
    for first, last, speech, task in spans:
        parts.append(markers[speech, task])
        if not speech:
            parts.append(text[text_cuts[first] : text_cuts[last]])
        elif with_prosody:
            parts.append(_merge_frames(utterance, unit_cuts[first], unit_cuts[last]))
        elif unit_cuts[first] < unit_cuts[last]:
            parts.append(runs[begins[first] : ends[last]])
    return np.concatenate(parts)


_MANY = 16
"""Number of spans above which index arithmetic is faster than one slice for each."""


def _check_task_markers(spans_of_each: Iterable[Sequence[Span]], vocabulary: Vocabulary) -> None:
    if not vocabulary.tasks and any(spans[-1].task for spans in spans_of_each):
        raise ValueError(
            "spans with [ASR] or [TTS]: need a vocabulary with tasks=True, got one without these markers"
        )


def interleave_batch(
    texts: Sequence[np.ndarray],
    text_ends: Sequence[np.ndarray],
    units: Sequence[np.ndarray],
    times: Sequence[np.ndarray],
    spans_of_each: Sequence[Spans],
    *,
    vocabulary: Vocabulary,
    unit_rate: float,
    unit_centre: float,
    pitch: Sequence[np.ndarray] | None = None,
    style: Sequence[np.ndarray] | None = None,
    pitch_rate: float | None = None,
    style_rate: float | None = None,
) -> list[np.ndarray]:
    """What `interleave_spans` gives for each of many utterances, in one pass over all of them.

    Args:
        texts, text_ends, units, pitch, style: of each utterance, as in `TokenizedUtterance`; each has words and units.
        times: of each utterance, (2, W) starts and ends of its words, seconds.
        spans_of_each: of each utterance, from `strategies.draw_spans`.
        unit_rate, pitch_rate, style_rate: Hz; those of pitch and style are needed only with them.

    Returns:
        (N,) int32 ids of each utterance.
    """
    words = np.array([len(one) for one in text_ends])
    frames = np.array([len(one) for one in units])
    first_word, first_frame = np.cumsum(words) - words, np.cumsum(frames) - frames
    first_text = np.cumsum([0, *map(len, texts)])[:-1]
    # an utterance of W words has W + 1 cuts; those between two words are where their neighbours' times meet
    first_cut = first_word + np.arange(len(words))
    last_cut = first_cut + words
    starts, ends = np.concatenate(times, axis=1)
    inner = np.ones(len(starts) + len(words), dtype=bool)
    inner[first_cut] = False
    text_cuts = np.zeros(len(inner), dtype=np.int64)
    text_cuts[inner] = np.concatenate(text_ends)
    text_cuts += first_text.repeat(words + 1)
    inner[last_cut] = False
    middles = np.delete((ends[:-1] + starts[1:]) / 2, first_word[1:] - 1)
    unit_cuts = np.zeros(len(inner), dtype=np.int64)
    unit_cuts[inner] = frame_centres(unit_rate, unit_centre, int(frames.max())).searchsorted(middles)
    unit_cuts[last_cut] = frames
    np.minimum(unit_cuts, frames.repeat(words + 1), out=unit_cuts)
    unit_cuts += first_frame.repeat(words + 1)

    counts = [len(spans) for spans in spans_of_each]
    _check_task_markers(spans_of_each, vocabulary)
    columns = Spans(chain.from_iterable(spans_of_each)).columns
    columns[:2] += (2 * first_cut).repeat(counts)
    text = np.concatenate(texts)
    if pitch is None and style is None:
        runs = find_runs(np.concatenate(units), unit_cuts, vocabulary.first_unit, first_frame)
        ids, heads = _concatenate(text, runs, text_cuts, unit_cuts, columns, vocabulary)
    else:
        kinds = columns[2]
        (spoken,) = (kinds % 2).nonzero()
        cuts = columns[:2] // 2
        starts = text_cuts[cuts[0]]
        lengths = text_cuts[cuts[1]] - starts
        owners = np.arange(len(counts)).repeat(counts)[spoken]
        frames_of = unit_cuts[cuts[:, spoken]] - first_frame[owners]
        speech, lengths_of_speech = merge_spans(
            units, pitch, style, owners, *frames_of,
            vocabulary=vocabulary, unit_rate=unit_rate, pitch_rate=pitch_rate, style_rate=style_rate,
        )  # fmt: skip
        starts[spoken] = len(text) + np.cumsum(lengths_of_speech) - lengths_of_speech
        lengths[spoken] = lengths_of_speech
        source = np.concatenate((text, speech))
        ids, heads = _concatenate_slices(source, starts, lengths, kinds, vocabulary)
    return np.split(ids, heads[np.cumsum(counts)[:-1]])


def _concatenate(
    text: np.ndarray,
    runs: tuple[np.ndarray, np.ndarray, np.ndarray],
    text_cuts: np.ndarray,
    unit_cuts: np.ndarray,
    columns: np.ndarray,
    vocabulary: Vocabulary,
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of all spans, and the index of the marker of each, by index arithmetic."""
    firsts, lasts, kinds = columns
    run_ids, run_begins, run_ends = runs
    begins, ends = np.empty((2, len(unit_cuts), 2), dtype=np.int64)  # text beside speech, as in the columns
    begins[:, 0] = ends[:, 0] = text_cuts
    begins[:, 1], ends[:, 1] = run_begins, run_ends
    begins[:, 1] += len(text)  # each id is looked up in text and runs, one after the other
    ends[:, 1] += len(text)
    starts = begins.ravel().take(firsts)
    lengths = ends.ravel().take(lasts)
    lengths -= starts
    if not (unit_cuts[1:] > unit_cuts[:-1]).all():
        # words without a frame have no units, not the run around them
        lengths[(kinds % 2 == 1) & (unit_cuts[firsts // 2] == unit_cuts[lasts // 2])] = 0
    return _concatenate_slices(np.concatenate((text, run_ids)), starts, lengths, kinds, vocabulary)


def _concatenate_slices(
    source: np.ndarray, starts: np.ndarray, lengths: np.ndarray, kinds: np.ndarray, vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """A marker and then source[start : start + length], for each span, and the indices of the markers."""
    lengths = lengths + 1  # the marker
    heads = lengths.cumsum()
    heads -= lengths
    index = (starts - heads - 1).repeat(lengths)
    index += np.arange(len(index))
    ids = source.take(index, mode="wrap")  # at a marker any index, -1 too
    ids[heads] = vocabulary.marker_ids.take(kinds)
    return ids, heads


def speech_tokens(utterance: TokenizedUtterance) -> np.ndarray:
    """`[Speech]` and the deduplicated units of the whole utterance: (N,) int32."""
    marker = utterance.vocabulary.marker_arrays[True, False]
    return np.concatenate((marker, _merge_frames(utterance, 0, len(utterance.units))))


def text_tokens(utterance: TokenizedUtterance) -> np.ndarray:
    """`[Text]` and all text ids: (M + 1,) int32."""
    return np.concatenate((utterance.vocabulary.marker_arrays[False, False], utterance.text))


def _merge_frames(utterance: TokenizedUtterance, first: int, last: int) -> np.ndarray:
    """Ids of the frames [first, last), with pitch and style where there are any."""
    return merge_ids(
        utterance.units,
        utterance.pitch,
        utterance.style,
        vocabulary=utterance.vocabulary,
        unit_rate=utterance.unit_rate,
        pitch_rate=utterance.pitch_rate,
        style_rate=utterance.style_rate,
        first=int(first),
        last=int(last),
    )
