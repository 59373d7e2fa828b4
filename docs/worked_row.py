"""The page of one fully worked row: every number in it is the output of the code."""

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

WORDS = "they went out on a cold grey morning".split()  # noqa: SIM905


def worked_row_page() -> str:
    """From a waveform to the loss mask, with the functions that a build and a training run use."""
    import torch

    from lm.training.train import IGNORE, read_batch
    from shards.interleave import interleave_spans
    from shards.read import Packed
    from shards.sequence import make_document, parse_spans
    from shards.strategies import make_strategy, span_generator
    from shards.text import train_bpe
    from shards.utterance import TokenizedUtterance
    from shards.vocabulary import Vocabulary
    from units.deduplicate import deduplicate
    from units.encode import encode_units
    from units.encoders import bundled_codebook, load_encoder
    from units.quantizers import load_codebook

    seconds = 3.2
    wave = harmonic_sound(seconds)
    encoder, codebook = load_encoder("compact"), load_codebook(bundled_codebook())
    (features,) = encoder.encode([wave])
    (units,) = encode_units(encoder, codebook, [wave])
    kept, lengths = deduplicate(units)
    times = np.linspace(0, seconds, len(WORDS) + 1)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_bpe([" ".join(WORDS)], Path(folder) / "tokenizer.json", size=300)
    vocabulary = Vocabulary(tokenizer)
    ids, ends = tokenizer.encode_words(WORDS)
    utterance = TokenizedUtterance(
        id="row", units=units, unit_rate=encoder.frame_rate, unit_centre=encoder.centre / 16_000, text=ids,
        text_ends=ends, starts=times[:-1], ends=times[1:], seconds=seconds, vocabulary=vocabulary,
    )  # fmt: skip
    strategy = make_strategy("spirit", text_words=(2, 3), speech_words=(2, 3))
    spans = strategy.draw(len(WORDS), span_generator(0, 0, "row"))
    tokens = interleave_spans(utterance, spans)
    document = make_document(tokens, vocabulary)
    packed = np.concatenate([document, make_document(np.array([vocabulary.text_marker, ids[0]]), vocabulary)])
    owners = np.repeat([0, 1], [len(document), len(packed) - len(document)])
    positions = np.concatenate([np.arange(count) for count in np.bincount(owners)])
    sequence = OneSequence(Packed(packed, owners, positions, np.zeros_like(owners)))
    batch = read_batch(sequence, 1, torch.device("cpu"))  # type: ignore[arg-type]
    targets = batch.targets[0].tolist()
    cuts = utterance.unit_cuts

    lines = [
        "# One row, fully worked", "",
        "What becomes of one utterance, from its waveform to the loss, computed by the code when this page is "
        "built. The sound is synthetic, so "
        "its units mean nothing; every number follows from it.", "",
        "## Audio, frames, units", "",
        f"`corpus.audio.decode` gives ({len(wave)},) float32 at 16 kHz, {seconds} s. The encoder `compact` "
        f"gives {features.shape[0]} frames of "
        f"{features.shape[1]} numbers, {encoder.frame_rate:g} per second; the centre of frame k is at "
        f"{encoder.centre / 16_000:g} + k / {encoder.frame_rate:g} s. The codebook gives each frame its nearest "
        f"of {codebook.clusters} units "
        "(`units.encode`):", "", "```text", wrapped(units), "```", "",
        "## Deduplicated", "",
        f"`units.deduplicate` collapses runs: {len(kept)} units are left of {len(units)}. As unit x frames:", "",
        "```text", wrapped([f"{unit}x{length}" for unit, length in zip(kept, lengths, strict=True)]), "```", "",
        "## Words", "",
        "The aligner gives each word its time; the tokenizer its ids. A boundary between two words is the "
        "middle of the gap, and a frame belongs to "
        "the word that holds its centre (`shards.utterance`):", "",
        "| word | start, s | end, s | text ids | frames |", "|---|---|---|---|---|",
        *(
            f"| {word} | {times[n]:.2f} | {times[n + 1]:.2f} | "
            f"{' '.join(map(str, utterance.text[utterance.text_cuts[n] : utterance.text_cuts[n + 1]]))} | "
            f"{cuts[n]} to {cuts[n + 1] - 1} |"
            for n, word in enumerate(WORDS)
        ), "",
        "## Spans", "",
        "`shards.strategies` draws neighbouring words in one modality. Here text and speech spans of 2 or 3 "
        "words, from the generator of (seed 0, epoch "
        "0, id); the default is 10 to 30 words of text and 5 to 15 of speech, and each epoch draws anew:", "",
        "| span | words | tokens |", "|---|---|---|",
        *(
            f"| {'speech' if span.speech else 'text'} | {' '.join(WORDS[span.first : span.last])} | "
            f"`{parsed.marker}{''.join(vocabulary.decode(parsed.ids))}` |"
            for span, parsed in zip(spans, parse_spans(tokens, vocabulary), strict=True)
        ), "",
        "Units are cut at the span first and then deduplicated, so a run that crosses a boundary is in both "
        "spans.", "",
        "## Tokens, ids and the loss mask", "",
        f"`shards.sequence.make_document` adds BOS and EOS: {len(document)} ids. Training packs documents one "
        f"after another, without padding; here a "
        "second, short document follows. Attention and positions start again at each document. "
        "`lm.training.train.read_batch` gives each position its "
        "target, the next token of the same document; a position without one (`-`) has no loss. So every token "
        "but the first of each document is "
        "predicted once.", "",
        "| position | document | token | id | target |", "|---|---|---|---|---|",
        *(
            f"| {n} | {owners[n]} | `{vocabulary.decode([packed[n]])[0]}` | {packed[n]} | "
            f"{'-' if targets[n] == IGNORE else targets[n]} |"
            for n in range(len(packed))
        ), "",
        f"So {sum(target != IGNORE for target in targets)} of {len(packed)} positions have a loss.", "",
    ]  # fmt: skip
    return "\n".join(lines)


class OneSequence:
    """A stream of one packed sequence, as `read_batch` reads it."""

    keys: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, packed: Any):
        self.packed = packed

    def __next__(self) -> Any:
        return self.packed


def harmonic_sound(seconds: float) -> np.ndarray:
    """A sound whose pitch and timbre change every 200 ms: (T,) float32 at 16 kHz."""
    rng = np.random.default_rng(0)
    steps = round(seconds / 0.2)
    pitch = np.repeat(rng.uniform(90, 220, steps), 3_200)
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    weights = rng.uniform(0, 1, (steps, 12))
    harmonics = [np.repeat(weights[:, k - 1], 3_200) * np.sin(k * phase) / k for k in range(1, 13)]
    return (0.2 * np.sum(harmonics, axis=0)).astype(np.float32)


def wrapped(values: object, width: int = 110) -> str:
    """Values separated by spaces, in lines."""
    import textwrap

    return textwrap.fill(" ".join(map(str, values)), width)  # type: ignore[call-overload]
