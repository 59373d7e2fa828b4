"""Sequences and training documents: markers, BOS and EOS, and the spans of a sequence."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shards.vocabulary import KINDS, Vocabulary


class ParsedSpan(NamedTuple):
    """A span of a sequence: its marker ("[Text]", ...), its modality, and the ids after the marker."""

    marker: str
    speech: bool
    ids: np.ndarray


def make_document(
    tokens: np.ndarray | Sequence[int], vocabulary: Vocabulary, *, eos: bool = True
) -> np.ndarray:
    """A training document: BOS where the tokenizer has one, the tokens, and with `eos` EOS where it has one."""
    opening, closing = vocabulary.bos, vocabulary.eos if eos else None
    opens, closes = opening is not None, closing is not None
    ids = np.empty(len(tokens) + opens + closes, dtype=np.int32)
    ids[opens : opens + len(tokens)] = tokens
    if opening is not None:
        ids[0] = opening
    if closing is not None:
        ids[-1] = closing
    return ids


def parse_spans(tokens: np.ndarray | Sequence[int], vocabulary: Vocabulary) -> list[ParsedSpan]:
    """Spans of a sequence, BOS and EOS aside; the inverse of `interleave.interleave_spans`.

    Raises:
        ValueError: the sequence does not begin with a marker, two neighbouring spans have the same modality, or a
            token is in a span of the other modality.
    """
    ids = np.asarray(tokens, dtype=np.int32)
    ids = ids[int(len(ids) > 0 and ids[0] == vocabulary.bos) :]
    ids = ids[: len(ids) - int(len(ids) > 0 and ids[-1] == vocabulary.eos)]
    kinds = vocabulary.kind(ids)
    starts = np.flatnonzero((kinds == KINDS.index("marker")) | (kinds == KINDS.index("task")))
    if len(ids) and (not len(starts) or starts[0] != 0):
        raise ValueError(f"sequence: need a marker first, got {vocabulary.names[ids[0]]}")
    spans: list[ParsedSpan] = []
    for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
        speech = ids[start] == vocabulary.speech_marker or (
            vocabulary.tasks and ids[start] == vocabulary.tts_marker
        )
        allowed = np.isin(kinds[start + 1 : stop], _SPEECH_KINDS if speech else _TEXT_KINDS)
        marker = vocabulary.names[ids[start]]
        if not allowed.all():
            wrong = vocabulary.names[ids[start + 1 + int(np.argmin(allowed))]]
            raise ValueError(f"span {len(spans)}: a span that {marker} opens cannot hold {wrong}")
        if spans and spans[-1].speech == speech:
            raise ValueError(f"span {len(spans)}: {marker} must switch the modality, and it does not")
        spans.append(ParsedSpan(marker, speech, ids[start + 1 : stop]))
    return spans


_TEXT_KINDS = [KINDS.index("text")]
_SPEECH_KINDS = [KINDS.index(kind) for kind in ("unit", "pitch", "style")]
