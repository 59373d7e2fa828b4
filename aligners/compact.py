"""A small English acoustic model of our own, which needs no download: sound -> log probabilities of 39 phones.

It is the bundled encoder (`load_encoder("compact")`, 25 frames a second) with the layer that classified phones while it
was trained: the cosine of a frame to one direction per phone. The phones were those that pocketsphinx aligned, frame by
frame, so that its times are boundaries, not the late peaks of a model trained only on the order of phones. Between
frames probabilities are interpolated, four to a frame. Words become phones through pocketsphinx's dictionary and the
spelling model. Card: `data/ctc-en.json`.

    python -m aligners.compact HEADS PHONES      # pack it again, from what pre-training left and was given
"""

import argparse
import functools
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from aligners.g2p import Phones, dictionary_path, pronounce_by_parts
from corpus.records import SAMPLE_RATE, Reject
from units.encoders import Encoder, load_encoder

MODEL = Path(__file__).parent / "data" / "ctc-en.safetensors"
CARD = MODEL.with_suffix(".json")
ENCODER = "compact"
QUARTERS = 4
HOP = SAMPLE_RATE // 100
"""Samples of a quarter of the encoder's frame: 10 ms."""
# fmt: off
PHONES = (
    "SIL", "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH",
    "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)
# fmt: on
"""Its classes; silence is CTC's blank."""

TEMPERATURE = 0.1  # that the layer was trained with
TARGETS = (
    "phones that pocketsphinx aligned to what it recognised in one recording each of 189 speakers of "
    "LibriSpeech train-clean-100 (CC BY 4.0), of 128 in the first stage"
)
PRIOR = 0.5  # power of a phone's frequency that its probability is divided by


@functools.cache
def bundled() -> tuple[Encoder, np.ndarray, np.ndarray]:
    """The encoder, (len(PHONES), D) unit directions, and (len(PHONES),) log frequencies; read once per process.

    Raises:
        ValueError: the layer belongs to another encoder.
    """
    encoder = load_encoder(ENCODER)
    card, tensors = json.loads(CARD.read_text(encoding="utf-8")), load_file(MODEL)
    if encoder.identity != card["encoder"] or encoder.hop != QUARTERS * HOP:
        raise ValueError(
            f"{MODEL.name}: belongs to encoder {card['encoder']}, got {encoder.identity}; pack it again"
        )
    directions = tensors["directions"].astype(np.float32)
    return encoder, directions / np.linalg.norm(directions, axis=1, keepdims=True), tensors["log_prior"]


def identity() -> str:
    """Hash of the weights and of the encoder's."""
    return hashlib.sha256(MODEL.read_bytes() + bundled()[0].identity.encode()).hexdigest()[:16]


def log_probs(piece: np.ndarray) -> np.ndarray:
    """Log probabilities of PHONES of one window, (QUARTERS * F, len(PHONES)) float16.

    Quarter q of frame f stands for samples [centre + (f - 1/2) hop + q HOP, + HOP).
    """
    encoder, directions, prior = bundled()
    (frames,) = encoder.encode([piece])
    lengths = np.linalg.norm(frames, axis=1, keepdims=True)
    scores = (frames / np.maximum(lengths, 1e-9)) @ directions.T / TEMPERATURE
    scores = between(scores - log_sum(scores)) - PRIOR * prior
    return (scores - log_sum(scores)).astype(np.float16)  # an hour of it lies in memory


def between(frames: np.ndarray) -> np.ndarray:
    """(F, C) at the middles of frames -> (QUARTERS * F, C) at the middles of their quarters, by straight lines.

    >>> between(np.array([[0.0], [8.0]])).ravel().tolist()
    [0.0, 0.0, 1.0, 3.0, 5.0, 7.0, 8.0, 8.0]
    """
    at = (np.arange(len(frames) * QUARTERS) + 0.5) / QUARTERS - 0.5
    at = np.clip(at, 0, len(frames) - 1)
    first = np.minimum(at.astype(int), max(0, len(frames) - 2))
    share = (at - first)[:, None]
    return frames[first] * (1 - share) + frames[np.minimum(first + 1, len(frames) - 1)] * share


def log_sum(scores: np.ndarray) -> np.ndarray:
    """(F, C) -> (F, 1) logarithm of the sum of exponentials."""
    highest = scores.max(1, keepdims=True)
    return highest + np.log(np.exp(scores - highest).sum(1, keepdims=True))


@functools.cache
def dictionary() -> dict[str, str]:
    """pocketsphinx's dictionary, first pronunciations only; phones stay one string, for a third of the memory."""
    with dictionary_path().open(encoding="utf-8") as lines:
        entries = (line.rstrip().partition(" ") for line in lines)
        return {word: phones for word, _, phones in entries if "(" not in word}


def lookup(word: str) -> Phones | None:
    """The phones of a word in the dictionary."""
    return tuple(dictionary().get(word, "").split()) or None


@functools.lru_cache(maxsize=100_000)
def spell(word: str) -> tuple[int, ...]:
    """A spoken word as places in PHONES. Raises Reject.

    >>> [PHONES[place] for place in spell("it's")]
    ['IH', 'T', 'S']
    """
    phones = pronounce_by_parts(word, lookup) if len(word) <= 50 else None
    if not phones:
        raise Reject("align.out_of_vocabulary", f"{word[:50]!r} is not written in English letters")
    return tuple(PHONES.index(phone) for phone in phones)


# --- packing --------------------------------------------------------------------------------------------------------


def log_frequencies(phones: Path) -> np.ndarray:
    """(len(PHONES),) log share of the time of each phone, in lines `{"phones": [[phone, start, end], ...]}`."""
    seconds: Counter[str] = Counter(dict.fromkeys(PHONES, 0.01))
    for line in phones.read_text(encoding="utf-8").splitlines():
        spoken = json.loads(line)["phones"]
        for phone, start, end in spoken:
            seconds[phone] += end - start
        if spoken:
            seconds["SIL"] += (
                spoken[-1][2] - spoken[0][1] - sum(end - start for _, start, end in spoken) + 1.0
            )
    shares = np.array([seconds[phone] for phone in PHONES])
    return np.log(shares / shares.sum()).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the model and its card."""
    parser = argparse.ArgumentParser(prog="python -m aligners.compact", description="pack the bundled model")
    parser.add_argument("heads", type=Path, help="heads.safetensors of the encoder's pre-training")
    parser.add_argument("phones", type=Path, help="the phones it was trained with")
    parser.add_argument("--encoder", default=ENCODER)
    parser.add_argument("--output", type=Path, default=MODEL)
    options = parser.parse_args(arguments)
    directions = load_file(options.heads)["phones.weight"]
    if len(directions) != len(PHONES):
        raise SystemExit(f"{options.heads}: need {len(PHONES)} phones with silence, got {len(directions)}")
    tensors = {"directions": directions.astype(np.float16), "log_prior": log_frequencies(options.phones)}
    save_file(tensors, options.output)
    card = {
        "what": "39 English phones and silence from frames of the bundled encoder, for forced alignment",
        "targets": TARGETS,
        "encoder_learnt_from": "331 recordings of LibriSpeech and EmoDB, see units/data/compact/README.md",
        "encoder": load_encoder(options.encoder).identity,
        "phones": list(PHONES),
        "sha256_of_phones": hashlib.sha256(options.phones.read_bytes()).hexdigest(),
    }
    options.output.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
