"""Toy vocabulary, utterances and builds that the tests of shards/ share."""

import functools
import itertools
import tempfile
from pathlib import Path

import numpy as np

from corpus.records import Utterance, Word
from shards.interleave import interleave, speech_tokens, text_tokens
from shards.sequence import make_document
from shards.strategies import make_strategy, span_generator
from shards.text import train_bpe
from shards.utterance import TokenizedUtterance
from shards.vocabulary import Vocabulary
from shards.write import STREAMS, metadata, sample, text_metadata, write_index, write_shard

WORDS = """
the a they went out together and came home late in spring when rain falls over old stone houses don't
""".split()  # noqa: SIM905


@functools.cache
def toy_vocabulary(pitch: int = 0, style: int = 0, tasks: bool = True) -> Vocabulary:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_bpe([" ".join(WORDS)] * 3, Path(folder) / "tokenizer.json", size=400)
    return Vocabulary(tokenizer, units=501, pitch=pitch, style=style, tasks=tasks)


def toy_utterance(
    words: int,
    seed: int = 0,
    *,
    expressive: bool = False,
    pitch_rate: float = 12.5,
    style_rate: float = 1.0,
    id: str = "u1",
) -> TokenizedUtterance:
    """Random words of 0.01 to 0.5 s, some without a frame, some without a gap; units in runs of 1 to 3 frames."""
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(0.01, 0.5, words)
    gaps = rng.uniform(0, 0.2, words) * rng.integers(0, 2, words)
    starts = np.cumsum(lengths + gaps) - lengths
    seconds = round(float(starts[-1] + lengths[-1] + 0.3) * 16000) / 16000
    frames = (int(seconds * 16000) - 720) // 640 + 1
    units = np.repeat(rng.integers(0, 501, frames), rng.integers(1, 4, frames))[:frames]
    vocabulary = toy_vocabulary(64, 100) if expressive else toy_vocabulary()
    ids, ends = vocabulary.tokenizer.encode_words([WORDS[i] for i in rng.integers(0, len(WORDS), words)])
    return TokenizedUtterance(
        id=id,
        units=units,
        unit_rate=25.0,
        unit_centre=0.0225,
        text=ids,
        text_ends=ends,
        starts=starts,
        ends=starts + lengths,
        seconds=seconds,
        vocabulary=vocabulary,
        pitch=rng.integers(0, 64, int(seconds * pitch_rate) + 1) if expressive else None,
        style=rng.integers(0, 100, int(seconds * style_rate) + 1) if expressive else None,
        pitch_rate=pitch_rate,
        style_rate=style_rate,
    )


def toy_sample(utterance: TokenizedUtterance, stream: str, strategy: str = "spirit") -> dict:
    vocabulary = utterance.vocabulary
    cuts = utterance.text_cuts
    texts = [vocabulary.tokenizer.decode(utterance.text[a:b]) for a, b in itertools.pairwise(cuts)]
    row = Utterance(
        utterance.id, "x.wav", round(utterance.seconds * 16000), text=" ".join(texts), speaker="s1"
    )
    words = [
        Word(text, float(start), float(end), text, 0.9)
        for text, start, end in zip(texts, utterance.starts, utterance.ends)
    ]
    if stream == "text":
        return sample(
            text_metadata(utterance.id, vocabulary), make_document(text_tokens(utterance), vocabulary)
        )
    if stream == "speech":
        record = metadata(row, vocabulary, stream=stream, tokenized=utterance, unit_hop=640)
        return sample(record, make_document(speech_tokens(utterance), vocabulary), utterance)
    settings = make_strategy(strategy)
    sampled = {"strategy": settings, "seed": 0, "words": words}
    record = metadata(row, vocabulary, stream=stream, tokenized=utterance, unit_hop=640, **sampled)
    tokens = interleave(utterance, settings, span_generator(0, 0, utterance.id))
    return sample(record, make_document(tokens, vocabulary), utterance)


def toy_build(
    folder: Path,
    utterances: int = 100,
    per_shard: int = 40,
    split: str = "train",
    *,
    strategy: str = "spirit",
    expressive: bool = False,
) -> Path:
    """A build with shards of all streams, the last shard of each a short one."""
    rng = np.random.default_rng(1)
    rows = [
        toy_utterance(int(rng.integers(2, 60)), seed=i, id=f"u{i:04d}", expressive=expressive)
        for i in range(utterances)
    ]
    entries: dict = {}
    for stream in STREAMS:
        (folder / "shards" / stream).mkdir(parents=True)
        entries[stream] = {split: []}
        for first in range(0, utterances, per_shard):
            samples = (toy_sample(row, stream, strategy) for row in rows[first : first + per_shard])
            path = folder / "shards" / stream / f"{split}-{first // per_shard:06d}.tar"
            entries[stream][split].append(write_shard(path, samples, rows[0].vocabulary))
    write_index(folder / "shards", entries, rows[0].vocabulary)
    return folder
