"""A small English acoustic model of our own, which needs no download: sound -> log probabilities of 39 phones.

It is the bundled encoder (`load_encoder("compact")`, 25 frames a second) and a network of one hidden layer, which sees
a frame between its two neighbours and gives the phones of the frame's four quarters, 10 ms each. It was trained on
phones that pocketsphinx aligned, quarter by quarter, so that its times are boundaries, not the late peaks of a model
trained only on the order of phones. Words become phones through pocketsphinx's dictionary and the spelling model.
Card: `data/ctc-en.json`.

    wordweave phones MANIFEST --output PHONES
    python -m aligners.compact MANIFEST PHONES   # train it again
"""

import argparse
import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from aligners.g2p import Phones, dictionary_path, pronounce_by_parts
from corpus.adapters import read_jsonl
from corpus.audio import decode
from corpus.records import SAMPLE_RATE, Reject, Utterance
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

TARGETS = (
    "phones that pocketsphinx aligned to transcripts by the encoder's teacher, of one recording each of %d speakers of "
    "LibriSpeech train-clean-100 (CC BY 4.0)"
)
HIDDEN = 256
EPOCHS = 12
BATCH = 1_024  # frames of a training step
RATE = 2e-3
DROPOUT = 0.2
PRIOR = 0.5  # power of a phone's frequency that its probability is divided by


@dataclass(frozen=True)
class PhoneNetwork:
    """The network: (F, 3 D) frames with their neighbours -> (F, QUARTERS * len(PHONES)) scores."""

    mean: np.ndarray
    scale: np.ndarray
    hidden: np.ndarray
    hidden_bias: np.ndarray
    output: np.ndarray
    output_bias: np.ndarray
    log_prior: np.ndarray

    def scores(self, frames: np.ndarray) -> np.ndarray:
        """(F, D) -> (QUARTERS * F, len(PHONES)) log probabilities of each quarter."""
        x = with_neighbours((frames - self.mean) * self.scale)
        x = np.maximum(x @ self.hidden + self.hidden_bias, 0) @ self.output + self.output_bias
        scores = x.reshape(-1, len(PHONES))
        return scores - log_sum(scores)


@functools.cache
def bundled(device: str = "cpu") -> tuple[Encoder, PhoneNetwork]:
    """The encoder, on a device, and the network; read once per process.

    Raises:
        ValueError: the network belongs to another encoder.
    """
    encoder = load_encoder(ENCODER, device=device)
    card, tensors = json.loads(CARD.read_text(encoding="utf-8")), load_file(MODEL)
    if encoder.identity != card["encoder"] or encoder.hop != QUARTERS * HOP:
        raise ValueError(
            f"{MODEL.name}: belongs to encoder {card['encoder']}, got {encoder.identity}; train it again"
        )
    return encoder, PhoneNetwork(**{name: tensor.astype(np.float32) for name, tensor in tensors.items()})


def identity() -> str:
    """Hash of the weights and of the encoder's."""
    return hashlib.sha256(MODEL.read_bytes() + bundled()[0].identity.encode()).hexdigest()[:16]


def log_probs(pieces: Sequence[np.ndarray], device: str = "cpu") -> list[np.ndarray]:
    """Log probabilities of PHONES of each window, (QUARTERS * F, len(PHONES)) float16.

    Quarter q of frame f stands for samples [centre + (f - 1/2) hop + q HOP, + HOP).
    """
    encoder, network = bundled(device)
    scores = [network.scores(frames) - PRIOR * network.log_prior for frames in encoder.encode(pieces)]
    return [(one - log_sum(one)).astype(np.float16) for one in scores]  # an hour of it lies in memory


def with_neighbours(frames: np.ndarray) -> np.ndarray:
    """(F, D) -> (F, 3 D): each frame between the one before and the one after; the outermost are repeated.

    >>> with_neighbours(np.array([[1.0], [2.0], [3.0]])).tolist()
    [[1.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 3.0]]
    """
    return np.concatenate(
        [frames[[0, *range(len(frames) - 1)]], frames, frames[[*range(1, len(frames)), -1]]], axis=1
    )


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


# --- training -------------------------------------------------------------------------------------------------------


def quarter_labels(phones: Sequence[tuple[str, float, float]], frames: int, encoder: Encoder) -> np.ndarray:
    """(F, QUARTERS) places in PHONES of what is spoken in the middle of each quarter; silence where nothing is."""
    middles = encoder.centre - encoder.hop / 2 + HOP * (np.arange(frames * QUARTERS) + 0.5)
    labels = np.zeros(len(middles), np.int64)
    for name, start, end in phones:
        labels[(middles >= start * SAMPLE_RATE) & (middles < end * SAMPLE_RATE)] = PHONES.index(name)
    return labels.reshape(frames, QUARTERS)


def train(frames: Sequence[np.ndarray], labels: Sequence[np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
    """The arrays of `PhoneNetwork`.

    Args:
        frames: (F, D) features of each recording.
        labels: (F, QUARTERS) of each recording, as from `quarter_labels`.
    """
    import torch

    every = np.concatenate(frames)
    mean, scale = every.mean(axis=0), 1 / np.maximum(every.std(axis=0), 1e-6)
    x = torch.from_numpy(np.concatenate([with_neighbours((one - mean) * scale) for one in frames]))
    y = torch.from_numpy(np.concatenate(labels))
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Dropout(DROPOUT),
        torch.nn.Linear(x.shape[1], HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Dropout(DROPOUT),
        torch.nn.Linear(HIDDEN, QUARTERS * len(PHONES)),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            scores = network(x[rows]).reshape(-1, len(PHONES))
            loss = torch.nn.functional.cross_entropy(scores, y[rows].flatten(), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    arrays = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    counts = np.bincount(y.flatten().numpy(), minlength=len(PHONES)) + 1.0
    return {
        "mean": mean, "scale": scale, "hidden": arrays["1.weight"].T, "hidden_bias": arrays["1.bias"],
        "output": arrays["4.weight"].T, "output_bias": arrays["4.bias"], "log_prior": np.log(counts / counts.sum()),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the model and its card."""
    parser = argparse.ArgumentParser(prog="python -m aligners.compact", description="train the bundled model")
    parser.add_argument("manifest", type=Path, help="JSONL manifest of the recordings")
    parser.add_argument("phones", type=Path, help="their phones, as `wordweave phones` writes them")
    parser.add_argument("--encoder", default=ENCODER)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=MODEL)
    options = parser.parse_args(arguments)
    encoder = load_encoder(options.encoder)
    if encoder.hop != QUARTERS * HOP:
        raise SystemExit(
            f"{options.encoder}: need {QUARTERS * HOP} samples from frame to frame, got {encoder.hop}"
        )
    lines = map(json.loads, options.phones.read_text(encoding="utf-8").splitlines())
    spoken = {line["id"]: line["phones"] for line in lines}
    frames, labels, seconds = [], [], 0.0
    for utterance in read_jsonl(options.manifest):
        if isinstance(utterance, Utterance) and spoken.get(utterance.id):
            waveform = decode(utterance)
            frames += encoder.encode([waveform])
            labels.append(quarter_labels(spoken[utterance.id], len(frames[-1]), encoder))
            seconds += len(waveform) / SAMPLE_RATE
    if not frames:
        raise SystemExit(f"{options.phones}: has phones of no recording of {options.manifest}")
    arrays = train(frames, labels, seed=options.seed)
    save_file({name: np.ascontiguousarray(x, np.float16) for name, x in arrays.items()}, options.output)
    card = {
        "what": "39 English phones and silence from frames of the bundled encoder, for forced alignment",
        "targets": TARGETS % len(frames),
        "encoder": encoder.identity,
        "minutes": round(seconds / 60, 1),
        "seed": options.seed,
        "phones": list(PHONES),
        "sha256_of_phones": hashlib.sha256(options.phones.read_bytes()).hexdigest(),
    }
    options.output.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
