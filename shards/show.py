"""An interleaved sample as a person reads it: the written words of every span, and the units of the spoken ones."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from shards.interleave import Strategy, generator, parse, spans, speech_tokens
from shards.read import read_samples, read_utterance
from shards.vocabulary import Vocabulary


class ShownSpan(NamedTuple):
    """A span of the materialised sequence: its marker, its modality, its written words, the names of its tokens."""

    marker: str
    speech: bool
    words: str
    tokens: str


def read_spans(
    build: Path, sample_id: str | None = None, *, split: str | None = None
) -> Iterator[tuple[dict[str, Any], list[ShownSpan]]]:
    """Samples of a build's interleaved shards with their spans, in order; the member "speech" is the speech sequence.

    Args:
        sample_id: only the sample with this id.
        split: only "train" or "valid".

    Raises:
        ValueError: there are no shards, or one is damaged.
    """
    folder = build / "shards"
    try:
        index = json.loads((folder / "index.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder / 'index.json'}: no finished shards here; run `wordweave interleave` first"
        ) from error
    vocabulary = Vocabulary.load(folder)
    for name, shards in sorted(index["streams"].get("interleaved", {}).items()):
        for shard in shards if split in (None, name) else ():
            for sample in read_samples(folder / shard["file"]):
                if sample_id in (None, sample["json"]["id"]):
                    speech = speech_tokens(read_utterance(sample, vocabulary))[1:]
                    yield {**sample, "speech": speech}, spans_of(sample, vocabulary)


def spans_of(sample: dict[str, Any], vocabulary: Vocabulary) -> list[ShownSpan]:
    """The spans of one sample: drawn again as they were when the shard was written, beside the tokens they became."""
    record = sample["json"]
    words = [word[0] for word in record["words"]]
    plan = spans(len(words), Strategy(**record["strategy"]), generator(record["seed"], 0, record["id"]))
    parsed = parse(sample["tokens.npy"], vocabulary)
    return [
        ShownSpan(
            said.marker,
            said.speech,
            " ".join(words[span.first : span.last]),
            "".join(vocabulary.decode(said.ids)),
        )
        for span, said in zip(plan, parsed, strict=True)
    ]
