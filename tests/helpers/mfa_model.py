"""An acoustic model in the layout of the Montreal Forced Aligner: a zip of Kaldi's binary files, monophones."""

import json
import math
import struct
import zipfile

import numpy as np
import torch
from torchaudio.compliance.kaldi import mfcc
from torchaudio.functional import compute_deltas

STATES = 3
SILENCE, NOISE = "sil", "spn"


def features_of(wave):
    """(F, 39): 13 MFCC as MFA takes them, less their means, with deltas and their deltas."""
    samples = torch.from_numpy(wave[None] * 32768.0)
    cepstra = mfcc(
        samples, num_ceps=13, num_mel_bins=23, low_freq=20, high_freq=7800, use_energy=False, dither=0.0,
        sample_frequency=16_000, snip_edges=True,
    ).T  # fmt: skip
    cepstra = cepstra - cepstra.mean(1, keepdim=True)
    once = compute_deltas(cepstra, 5)
    return torch.cat([cepstra, once, compute_deltas(once, 5)]).T.numpy()


def write_mfa_model(path, recordings):
    """Write a zip of monophones with one Gaussian for each third of a phone.

    recordings: (waveform at 16 kHz, phones with text, start, end) pairs; between the phones is silence.
    """
    frames = {}
    for wave, phones in recordings:
        features, before = features_of(wave), 0.0
        pieces = []
        for phone in [*phones, None]:
            start, end = (phone.start, phone.end) if phone else (len(wave) / 16_000,) * 2
            pieces += [(SILENCE, before, start)] * (start - before > 0.05)
            pieces += [(phone.text, start, end)] if phone else []
            before = end
        for name, start, end in pieces:
            edges = np.linspace(start * 100, end * 100, STATES + 1).round().astype(int)
            for state in range(STATES):
                frames.setdefault((name, state), []).append(features[edges[state] : edges[state + 1]])
    everything = np.concatenate([one for some in frames.values() for one in some])
    names = [SILENCE, NOISE, *sorted({name for name, _ in frames} - {SILENCE})]
    gaussians = []
    for name in names:
        for state in range(STATES):
            own = np.concatenate([everything[:0], *frames.get((name, state), [])])
            own = own if len(own) >= 10 else everything
            gaussians.append((own.mean(0), np.maximum(own.var(0), 0.05 * everything.var(0))))
    meta = {
        "version": "3.4.3", "architecture": "gmm-hmm", "train_date": "2026-11-01 00:00:00", "phones": names[2:],
        "phone_set_type": "ARPA", "position_dependent_phones": False, "silence_phone": SILENCE,
        "optional_silence_phone": SILENCE, "oov_phone": NOISE, "other_noise_phone": NOISE, "phone_type": "monophone",
        "features": {
            "feature_type": "mfcc", "use_energy": False, "frame_shift": 10, "frame_length": 25, "snip_edges": True,
            "low_frequency": 20, "high_frequency": 7800, "sample_frequency": 16000, "num_coefficients": 13,
            "num_mel_bins": 23, "dither": 0, "uses_cmvn": True, "uses_deltas": True, "uses_splices": False,
            "uses_voiced": False, "uses_speaker_adaptation": False, "use_pitch": False, "use_voicing": False,
        },
        "training": {"num_speakers": 4, "num_utterances": len(recordings)},
    }  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/meta.json", json.dumps(meta))
        symbols = [f"{name} {number}\n" for number, name in enumerate(["<eps>", *names])]
        archive.writestr("model/phones.txt", "".join(symbols))
        archive.writestr("model/tree", tree(len(names)))
        archive.writestr("model/final.mdl", transition_model(len(names)) + mixtures(gaussians))
    return path


def token(text):
    return text.encode() + b" "


def integer(value):
    return struct.pack("<bi", 4, value)


def real(value):
    return struct.pack("<bf", 4, value)


def integers(values):
    return struct.pack(f"<bi{len(values)}i", 4, len(values), *values)


def vector(values):
    return token("FV") + integer(len(values)) + np.asarray(values, "<f4").tobytes()


def matrix(values):
    rows, columns = values.shape
    return token("FM") + integer(rows) + integer(columns) + np.asarray(values, "<f4").tobytes()


def table(key, entries):
    size = struct.pack("<bI", -4, len(entries))
    return token("TE") + integer(key) + size + token("(") + b"".join(entries) + token(")")


def tree(phones):
    """Phone, then state, to the number of a Gaussian."""
    answer = lambda number: token("CE") + integer(number)  # noqa: E731
    leaves = [
        table(-1, [answer(phone * STATES + state) for state in range(STATES)]) for phone in range(phones)
    ]
    start = b"\0B" + token("ContextDependency") + integer(1) + integer(0) + token("ToPdf")
    return start + table(0, [token("NULL"), *leaves]) + token("EndContextDependency")


def transition_model(phones):
    """States from left to right, each as likely left as kept."""
    numbers = list(range(1, phones + 1))
    states = []
    for state in range(STATES):
        steps = integer(state) + real(0.5) + integer(state + 1) + real(0.5)
        states.append(integer(state) + integer(2) + steps)
    last = integer(-1) + integer(0)
    topology = integers(numbers) + integers([-1, *[0] * phones]) + integer(1) + integer(STATES + 1)
    triples = [
        integer(phone) + integer(state) + integer((phone - 1) * STATES + state)
        for phone in numbers
        for state in range(STATES)
    ]
    parts = [
        *(
            b"\0B",
            token("<TransitionModel>"),
            token("<Topology>"),
            topology,
            *states,
            last,
            token("</Topology>"),
        ),
        *(token("<Triples>"), integer(len(triples)), *triples, token("</Triples>")),
        *(token("<LogProbs>"), vector([0.0, *[math.log(0.5)] * (2 * len(triples))]), token("</LogProbs>")),
        token("</TransitionModel>"),
    ]
    return b"".join(parts)


def mixtures(gaussians):
    dimension = len(gaussians[0][0])
    parts = [token("<DIMENSION>"), integer(dimension), token("<NUMPDFS>"), integer(len(gaussians))]
    for mean, variance in gaussians:
        constant = -0.5 * (
            dimension * math.log(2 * math.pi) + np.log(variance).sum() + (mean**2 / variance).sum()
        )
        parts += [
            token("<DiagGMM>"),
            token("<GCONSTS>"),
            vector([constant]),
            token("<WEIGHTS>"),
            vector([1.0]),
        ]
        parts += [token("<MEANS_INVVARS>"), matrix((mean / variance)[None]), token("<INV_VARS>")]
        parts += [matrix((1 / variance)[None]), token("</DiagGMM>")]
    return b"".join(parts)
