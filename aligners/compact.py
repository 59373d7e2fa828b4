"""A small English acoustic model of our own, which comes with wordweave: sound -> log probabilities of 39 phones.

A stack of dilated convolutions on log-mel frames (10 ms). It was taught frame by frame with the phones that
pocketsphinx aligned: its times are boundaries, not the late peaks of a model that was only told the order of phones.
Words become phones through pocketsphinx's dictionary and the spelling model. Card: `data/ctc-en.json`.

    python -m aligners.compact MANIFEST [--phones FILE]      # learn it again
"""

import argparse
import functools
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from aligners.g2p import Phones, dictionary_path, pronounce_by_parts
from corpus.records import SAMPLE_RATE, Reject

MODEL = Path(__file__).parent / "data" / "ctc-en.safetensors"
HOP = 160  # samples
WINDOW = 400  # samples
MELS = 40
# fmt: off
PHONES = (
    "SIL", "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH",
    "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)
# fmt: on
"""What it tells apart; silence is CTC's blank."""

WIDTH = 64
DILATIONS = (1, 2, 4, 8, 1, 2)
PRIOR = 0.5  # power of a phone's frequency that its probability is divided by


class Network(nn.Module):
    """(B, MELS, F) features -> (B, len(PHONES), F) scores; a frame sees 18 on either side."""

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.first = nn.Conv1d(MELS, width, 5, padding=2)
        self.mixing = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=step, dilation=step) for step in DILATIONS
        )
        # over the channels of one frame, so that no window's length matters
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in DILATIONS)
        self.last = nn.Conv1d(width, len(PHONES), 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = self.first(features)
        for norm, layer in zip(self.norms, self.mixing, strict=True):
            normed = norm(hidden.transpose(1, 2)).transpose(1, 2)
            hidden = hidden + layer(functional.gelu(normed))
        return self.last(hidden)


CONTEXT = 2 + sum(DILATIONS)
"""Frames on either side that a score hangs on."""


@functools.cache
def filters() -> torch.Tensor:
    """(257, MELS) triangles, equally wide in mel from 60 to 7600 Hz."""
    mel = lambda hertz: 1127 * np.log1p(hertz / 700)  # noqa: E731
    edges = np.linspace(mel(60.0), mel(7600.0), MELS + 2)
    bins = mel(np.arange(257) * SAMPLE_RATE / 512)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.maximum(0, np.minimum(rising, falling)).astype(np.float32))


def log_mel(waveform: np.ndarray, chunk: int = 3000) -> np.ndarray:
    """Log energies in mel bands, (F, MELS) float32, F = ceil(T / HOP), made chunk by chunk to bound memory.

    Frame f is centred on sample (f + 1/2) * HOP: it stands for [f * HOP, (f + 1) * HOP).
    """
    frames = -(-len(waveform) // HOP)
    side = (WINDOW - HOP) // 2
    parts = []
    for first in range(0, frames, chunk):
        last = min(first + chunk, frames)
        begin, end = first * HOP - side, last * HOP + side
        piece = waveform[max(0, begin) : end]
        padded = np.pad(piece, (max(0, -begin), max(0, end - max(0, begin) - len(piece))))
        windows = torch.from_numpy(padded.astype(np.float32)).unfold(0, WINDOW, HOP)
        windows = (windows - windows.mean(1, keepdim=True)) * torch.hann_window(WINDOW)
        power = torch.fft.rfft(windows, 512).abs().square()
        parts.append(torch.log(power @ filters() + 1e-7).numpy())
    return np.concatenate(parts) if parts else np.zeros((0, MELS), np.float32)


def normalised(features: np.ndarray) -> np.ndarray:
    """Features less the mean of their louder half, (F, MELS), in place: microphones go, pauses have no say."""
    loud = features.mean(1)
    features -= features[loud >= np.median(loud)].mean(0) if len(features) else 0.0
    features /= 4
    return features


@functools.cache
def bundled() -> tuple[Network, np.ndarray]:
    """The network and (len(PHONES),) the log frequency of each phone, read once per process."""
    tensors = load_file(MODEL)
    prior = tensors.pop("log_prior").float().numpy()
    network = Network(tensors["first.weight"].shape[0])
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network.eval(), prior


def identity() -> str:
    """Hash of the weights."""
    return hashlib.sha256(MODEL.read_bytes()).hexdigest()[:16]


def listen(waveform: np.ndarray, window: int = 2000) -> np.ndarray:
    """Log probabilities of PHONES, (F, len(PHONES)) float32, computed in windows that change nothing."""
    network, prior = bundled()
    features = normalised(log_mel(waveform))
    log_probs = np.empty((len(features), len(PHONES)), np.float32)
    for first in range(0, len(features), window):
        left, last = max(0, first - CONTEXT), min(len(features), first + window)
        with torch.inference_mode():
            scores = network(torch.from_numpy(features[left : last + CONTEXT].T.copy())[None])[0].T
            likely = scores[first - left : last - left] - torch.from_numpy(PRIOR * prior)
            log_probs[first:last] = torch.log_softmax(likely, -1).numpy()
    return log_probs


@functools.cache
def dictionary() -> dict[str, Phones]:
    """pocketsphinx's dictionary, first pronunciations only."""
    found = {}
    for line in dictionary_path().read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        if "(" not in word:
            found[word] = tuple(phones)
    return found


@functools.lru_cache(maxsize=100_000)
def spell(word: str) -> tuple[int, ...]:
    """A spoken word as places in PHONES. Raises Reject.

    >>> [PHONES[place] for place in spell("it's")]
    ['IH', 'T', 'S']
    """
    phones = pronounce_by_parts(word, dictionary().get) if len(word) <= 50 else None
    if not phones:
        raise Reject("align.out_of_vocabulary", f"{word[:50]!r} is not written in English letters")
    return tuple(PHONES.index(phone) for phone in phones)


# --- learning -------------------------------------------------------------------------------------------------------


def labels_of(phones: Sequence[tuple[str, float, float]], frames: int) -> np.ndarray:
    """(F,) place in PHONES of every frame.

    >>> labels_of([("AA", 0.01, 0.03)], 4).tolist()
    [0, 1, 1, 0]
    """
    labels = np.zeros(frames, np.int64)
    for phone, start, end in phones:
        labels[round(start * SAMPLE_RATE / HOP) : round(end * SAMPLE_RATE / HOP)] = PHONES.index(phone)
    return labels


def disturbed(waveform: np.ndarray, others: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """As another room, microphone or neighbour would have it: noise, voices, an echo, a band, at random."""
    heard = waveform.astype(np.float64)
    if rng.random() < 0.3:
        tail = rng.normal(0, 1, int(rng.uniform(0.1, 0.4) * SAMPLE_RATE))
        tail *= np.exp(-6.9 * np.arange(len(tail)) / len(tail)) * rng.uniform(0.02, 0.15)
        tail[0] = 1.0
        size = 1 << (len(heard) + len(tail)).bit_length()
        heard = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(tail, size), size)[: len(heard)]
    spectrum = np.fft.rfft(rng.normal(0, 1, len(heard)))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1) ** rng.uniform(0, 0.5)
    noise = np.fft.irfft(spectrum, len(heard))
    if rng.random() < 0.3:
        voices = [np.resize(others[int(rng.integers(len(others)))], len(heard)) for _ in range(3)]
        noise = np.sum(voices, axis=0)
    ratio = 10 ** (rng.uniform(5, 35) / 20)
    heard = heard + noise * (np.std(heard) / (np.std(noise) + 1e-9) / ratio)
    if rng.random() < 0.25:
        spectrum = np.fft.rfft(heard)
        hertz = np.arange(len(spectrum)) * SAMPLE_RATE / len(heard)
        spectrum[(hertz < rng.uniform(50, 300)) | (hertz > rng.uniform(3300, 8000))] *= 0.01
        heard = np.fft.irfft(spectrum, len(heard))
    return heard.astype(np.float32)


def examples(manifest: Path, phones: Path | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(waveform, labels) of every utterance of a manifest.

    Labels are the phones that pocketsphinx aligns to the transcript, or those of `phones`: a JSON object a line,
    `{"id", "phones": [[phone, start, end], ...]}`, for speech whose transcript was only recognised.
    """
    from aligners import load_aligner
    from corpus.adapters import read_jsonl
    from corpus.audio import decode
    from corpus.records import Utterance

    known = None if phones is None else read_phones(phones)
    aligner = load_aligner("pocketsphinx", phones=True)
    for utterance in read_jsonl(manifest):
        if not isinstance(utterance, Utterance) or (known is not None and utterance.id not in known):
            continue
        waveform = decode(utterance)
        if known is not None:
            found = known[utterance.id]
        else:
            (result,) = aligner.align([(utterance, waveform)])
            found = [(phone.text, phone.start, phone.end) for phone in result.phones or ()]
        if found:
            yield waveform, labels_of(found, -(-len(waveform) // HOP))


def read_phones(path: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Phones of utterances by id."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {
        row["id"]: [(str(phone), float(start), float(end)) for phone, start, end in row["phones"]]
        for row in rows
    }


def learn(
    spoken: Sequence[tuple[np.ndarray, np.ndarray]], *, epochs: int, seed: int = 0, copies: int = 1
) -> tuple[Network, np.ndarray]:
    """Teach a network by cross-entropy per frame; returns it and (len(PHONES),) log frequencies.

    Every utterance is heard as it is and disturbed in `copies` ways; batches are stretches of 2 s.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    waves = [waveform for waveform, _ in spoken]
    heard = [
        (normalised(log_mel(waveform if copy == 0 else disturbed(waveform, waves, rng))), labels)
        for copy in range(copies + 1)
        for waveform, labels in spoken
    ]
    features = torch.from_numpy(np.concatenate([one for one, _ in heard]))
    labels = torch.from_numpy(np.concatenate([one for _, one in heard]))
    counts = np.bincount(labels.numpy(), minlength=len(PHONES)) + 1.0
    network, length, size = Network(), 200, 48
    steps = epochs * len(features) // (length * size)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.02)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))
        starts = torch.from_numpy(rng.integers(0, len(features) - length, size))[:, None] + torch.arange(
            length
        )
        batch, wanted = features[starts].clone(), labels[starts]
        low = rng.integers(0, MELS - 6, size)  # a band of silence, so that none is trusted alone
        for row, first in enumerate(low):
            batch[row, :, first : first + int(rng.integers(0, 7))] = 0.0
        scores = network(batch.transpose(1, 2))
        loss = functional.cross_entropy(scores, wanted, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if step % 200 == 0 or step == steps - 1:
            right = float((scores.argmax(1) == wanted).float().mean())
            print(
                f"step {step} of {steps}: loss {loss.item():.3f}, right {right:.3f}",
                file=sys.stderr,
                flush=True,
            )
    return network.eval(), np.log(counts / counts.sum())


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn the model and write it with its card."""
    parser = argparse.ArgumentParser(prog="python -m aligners.compact", description="learn the bundled model")
    parser.add_argument("manifest", type=Path, help="speech, as `ingest jsonl` reads it")
    parser.add_argument("--phones", type=Path, help="its phones; else pocketsphinx aligns its transcripts")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--output", type=Path, default=MODEL)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    spoken = list(examples(options.manifest, options.phones))
    network, prior = learn(spoken, epochs=options.epochs)
    tensors = {name: tensor.to(torch.float16) for name, tensor in network.state_dict().items()}
    save_file({**tensors, "log_prior": torch.from_numpy(prior).float()}, options.output)
    card = {
        "what": "log-mel frames of 10 ms -> 39 English phones and silence; taught with pocketsphinx's phone times",
        "seconds": sum(len(waveform) for waveform, _ in spoken) / SAMPLE_RATE,
        "utterances": len(spoken),
        "epochs": options.epochs,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "targets": f"pocketsphinx {version('pocketsphinx')}",
    }
    options.output.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps({**card, "bytes": options.output.stat().st_size}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
