"""Interleaved samples for people to read: the written words of every span, and the units of the spoken ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from corpus import files
from shards.interleave import speech_tokens
from shards.samples import read_index, read_samples, read_utterance
from shards.sequence import parse_spans
from shards.strategies import draw_spans, span_generator, strategy_of
from shards.vocabulary import Vocabulary
from shards.write import SCHEMA


class ShownSpan(NamedTuple):
    """A span of the materialised sequence: its marker, its modality, its written words, the names of its tokens."""

    marker: str
    speech: bool
    words: str
    tokens: str


def read_spans(
    build: Path | str, sample_id: str | None = None, *, split: str | None = None
) -> Iterator[tuple[dict[str, Any], list[ShownSpan]]]:
    """Samples of a build's interleaved shards with their spans, in order; the member "speech" is the speech sequence.

    Args:
        sample_id: only the sample with this id.
        split: only "train" or "valid".

    Raises:
        ValueError: there are no shards, or one is damaged.
    """
    index = read_index(build)
    folder = files.join_path(build, "shards")
    vocabulary = Vocabulary.load(folder)
    for name, shards in sorted(index["streams"].get("interleaved", {}).items()):
        for shard in shards if split in (None, name) else ():
            for sample in read_samples(files.join_path(folder, shard["file"])):
                if sample_id in (None, sample["json"]["id"]):
                    speech = speech_tokens(read_utterance(sample, vocabulary))[1:]
                    yield {**sample, "speech": speech}, spans_of(sample, vocabulary)


def spans_of(sample: dict[str, Any], vocabulary: Vocabulary) -> list[ShownSpan]:
    """The spans of one sample, drawn as they were when the shard was written, with the tokens of each.

    Raises:
        ValueError: the sample was written by an earlier version, whose spans cannot be drawn again.
    """
    record = sample["json"]
    if record["schema"] != SCHEMA:
        raise ValueError(
            f"sample {record['id']}: schema: need {SCHEMA}, got {record['schema']}; run `wordweave interleave` again"
        )
    words = [word[0] for word in record["words"]]
    rng = span_generator(record["seed"], 0, record["id"])
    spans = draw_spans(len(words), strategy_of(record["strategy"]), rng)
    return [
        ShownSpan(
            parsed.marker,
            parsed.speech,
            " ".join(words[span.first : span.last]),
            "".join(vocabulary.decode(parsed.ids)),
        )
        for span, parsed in zip(spans, parse_spans(sample["tokens.npy"], vocabulary), strict=True)
    ]
