"""A small build in a toy language, for the tests of lm: twenty words, each spoken in its own way."""

from pathlib import Path

import numpy as np

from corpus.records import Utterance, Word
from shards.interleave import interleave_spans, speech_tokens
from shards.sequence import make_document
from shards.strategies import draw_spans, make_strategy, span_generator
from shards.text import train_bpe
from shards.utterance import TokenizedUtterance
from shards.vocabulary import Vocabulary
from shards.write import metadata, sample, text_metadata, write_index, write_shard

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "one", "dog", "ran"]
WORDS += ["out", "of", "his", "house", "they", "went", "home", "to", "eat", "fish"]
RATE, FRAMES = 25.0, 4  # Hz, frames per word
STRATEGY = make_strategy("spirit", text_words=(2, 4), speech_words=(2, 4))


def toy_vocabulary(folder: Path, units: int = 40) -> Vocabulary:
    return Vocabulary(train_bpe([" ".join(WORDS)] * 9, folder / "tokenizer.json", size=290), units=units)


def toy_build(folder: Path, vocabulary: Vocabulary, *, utterances: int = 80, seed: int = 0) -> Path:
    """Write `folder/shards` with three streams, a tenth of each held out. Word i + 1 mod 20 mostly follows word i."""
    rng = np.random.default_rng(seed)
    samples_of: dict = {name: {"train": [], "valid": []} for name in ("speech", "text", "interleaved")}
    for number in range(utterances):
        key, split = f"u{number:04d}", "valid" if number % 10 == 0 else "train"
        chosen = [int(rng.integers(len(WORDS)))]
        for _ in range(9):
            chosen.append((chosen[-1] + 1 + int(rng.random() < 0.1)) % len(WORDS))
        words = [WORDS[i] for i in chosen]
        frames = np.array([[2 * i, 2 * i, 2 * i + 1, 2 * i + int(rng.integers(2))] for i in chosen])
        ids, ends = vocabulary.tokenizer.encode_words(words)
        times = np.arange(len(words) + 1) * FRAMES / RATE
        spoken = TokenizedUtterance(
            key, frames.ravel(), RATE, 0.02, ids, ends, times[:-1], times[1:], times[-1], vocabulary
        )
        record = Utterance(key, f"{key}.wav", int(times[-1] * 16_000), text=" ".join(words))
        common = {"tokenized": spoken, "unit_hop": 640}
        timed = [Word(word, times[i], times[i + 1], word) for i, word in enumerate(words)]
        sequence = interleave_spans(spoken, draw_spans(len(words), STRATEGY, span_generator(seed, 0, key)))
        examples = {
            "speech": (metadata(record, vocabulary, stream="speech", **common), speech_tokens(spoken)),
            "text": (text_metadata(key, vocabulary), [vocabulary.text_marker, *ids]),
            "interleaved": (
                metadata(
                    record,
                    vocabulary,
                    stream="interleaved",
                    words=timed,
                    strategy=STRATEGY,
                    seed=seed,
                    **common,
                ),
                sequence,
            ),
        }
        for stream, (facts, tokens) in examples.items():
            samples_of[stream][split].append(sample(facts, make_document(tokens, vocabulary), spoken))
    entries: dict = {}
    for stream, splits in samples_of.items():
        (folder / "shards" / stream).mkdir(parents=True, exist_ok=True)
        for split, samples in splits.items():
            path = folder / "shards" / stream / f"{split}-000000.tar"
            entries.setdefault(stream, {})[split] = [write_shard(path, samples, vocabulary)]
    write_index(folder / "shards", entries, vocabulary)
    return folder
