"""Measures of a codebook: how its units are used, their bitrate, how well they match phones."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

SMOOTHING = 1.0  # frames of the overall phone distribution added to each unit's own, to score unseen speakers


def describe(units: Sequence[np.ndarray], *, clusters: int, frame_rate: float) -> dict[str, Any]:
    """How a codebook is used.

    Args:
        units: (F,) integers in [0, clusters) of each utterance, one unit per frame.
        clusters: K.
        frame_rate: Hz.

    Returns:
        JSON-able: `frames`, `seconds`; `used` and `dead` clusters; `entropy` (bits per frame) and `perplexity` of the
        units; `bitrate` (bits/s, entropy times rate); the same of the units left by deduplication, `runs_per_second`,
        `entropy_deduplicated`, `bitrate_deduplicated` (run lengths not counted), `kept` (runs per frame);
        `run_lengths`: their `mean`, `median`, `longest` in frames and `histogram`, runs of 1, 2, ... 20 or more frames;
        and `counts`, frames of each unit.

    Raises:
        ValueError: a unit outside [0, clusters), or no frames.

    >>> card = describe([np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])], clusters=4, frame_rate=25.0)
    >>> card["used"], card["entropy"], card["bitrate"], card["bitrate_deduplicated"], card["run_lengths"]["mean"]
    (2, 1.0, 25.0, 12.5, 2.0)
    """
    usage = Usage(clusters)
    for sequence in units:
        usage.add(sequence)
    return usage.card(frame_rate)


class Usage:
    """The counts behind `describe`, added up; memory depends on K and the longest run only."""

    def __init__(self, clusters: int):
        self.clusters = clusters
        self._frames, self._kept = np.zeros(clusters, np.int64), np.zeros(clusters, np.int64)
        self._runs = np.zeros(21, np.int64)  # by length in frames

    def add(self, units: np.ndarray, begins: Sequence[int] | np.ndarray = (0,)) -> None:
        """Count (F,) units of one utterance, or of several, which begin at the indices `begins`."""
        units = np.asarray(units, dtype=np.int64)
        if len(units) and not 0 <= units.min() <= units.max() < self.clusters:
            raise ValueError(f"units: need ids in [0, {self.clusters}), got {units.min()} to {units.max()}")
        changes = np.flatnonzero(units[1:] != units[:-1]) + 1
        starts = np.union1d(changes, np.asarray(begins, dtype=np.int64))
        starts = starts[starts < len(units)]
        kept, lengths = units[starts], np.diff(starts, append=len(units))
        self._frames += np.bincount(units, minlength=self.clusters)
        self._kept += np.bincount(kept, minlength=self.clusters)
        runs = np.bincount(lengths, minlength=len(self._runs))
        runs[: len(self._runs)] += self._runs
        self._runs = runs

    def card(self, frame_rate: float) -> dict[str, Any]:
        """The result of `describe`."""
        counts, runs = self._frames, self._runs
        frames, kept = int(counts.sum()), int(runs.sum())
        if frames == 0:
            raise ValueError("units: need at least one frame, got none")
        seconds = frames / frame_rate
        middle = np.searchsorted(np.cumsum(runs), [(kept - 1) // 2, kept // 2], side="right")
        return {
            "frames": frames,
            "seconds": seconds,
            "clusters": self.clusters,
            "frame_rate": frame_rate,
            "used": int((counts > 0).sum()),
            "dead": int((counts == 0).sum()),
            "entropy": entropy(counts),
            "perplexity": 2 ** entropy(counts),
            "bitrate": entropy(counts) * frame_rate,
            "runs_per_second": kept / seconds,
            "kept": kept / frames,
            "entropy_deduplicated": entropy(self._kept),
            "bitrate_deduplicated": entropy(self._kept) * kept / seconds,
            "run_lengths": {
                "mean": frames / kept,
                "median": float(middle.mean()),
                "longest": int(np.flatnonzero(runs)[-1]),
                "histogram": [*runs[1:20].tolist(), int(runs[20:].sum())],
            },
            "counts": counts.tolist(),
        }


def phone_quality(
    units: Sequence[np.ndarray],
    phones: Sequence[np.ndarray],
    *,
    speakers: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """How much information units carry about phones.

    On little speech `pnmi` is high even for random units, so compare it with `pnmi_shuffled`, the same with permuted
    phones. `xpnmi` has no such floor: it predicts each speaker's phones from tables learnt on the others,
    1 - cross-entropy / H(phone); it is below 0 for units that mislead.

    Args:
        units: (F,) integers of each utterance.
        phones: (F,) strings of each utterance, as from `phones_at_frames`; frames with "" do not count.
        speakers: of each utterance, for `xpnmi`.
        seed: of the shuffling.

    Returns:
        JSON-able: `frames`, `phones` (number of different ones), `pnmi` I(unit; phone) / H(phone), `pnmi_shuffled`,
        `phone_purity` (share of frames that have the commonest phone of their unit), `cluster_purity` (the commonest
        unit of their phone), `unit_nats_given_phone` H(unit | phone), and `xpnmi` if there are two speakers or more.

    Raises:
        ValueError: units and phones of an utterance differ in length, or no frame has a phone.

    Source: Hsu et al. 2021 (HuBERT), arXiv:2106.07447, section IV-E; `xpnmi` is our own.

    >>> quality = phone_quality([np.array([3, 3, 5, 5])], [np.array(["a", "a", "b", "b"])])
    >>> quality["pnmi"], quality["phone_purity"], quality["cluster_purity"]
    (1.0, 1.0, 1.0)
    """
    if [len(sequence) for sequence in units] != [len(sequence) for sequence in phones]:
        raise ValueError("units, phones: need equal lengths for every utterance")
    unit = np.concatenate([np.zeros(0, np.int64), *(np.asarray(sequence, np.int64) for sequence in units)])
    phone = np.concatenate([np.zeros(0, "U1"), *(np.asarray(sequence, dtype=str) for sequence in phones)])
    known = phone != ""
    if not known.any():
        raise ValueError("phones: need at least one frame with a phone, got none")
    unit, phone = (np.unique(labels[known], return_inverse=True)[1] for labels in (unit, phone))
    table = contingency(unit, phone)
    shuffled = contingency(unit, np.random.default_rng(seed).permutation(phone))
    result: dict[str, Any] = {
        "frames": len(unit),
        "phones": table.shape[1],
        "pnmi": normalised_information(table),
        "pnmi_shuffled": normalised_information(shuffled),
        "phone_purity": float(table.max(axis=1).sum() / table.sum()),
        "cluster_purity": float(table.max(axis=0).sum() / table.sum()),
        "unit_nats_given_phone": math.log(2) * (entropy(table.ravel()) - entropy(table.sum(axis=0))),
    }
    if speakers is not None and len(set(speakers)) > 1:
        names = np.repeat(np.array(speakers, dtype=str), [len(sequence) for sequence in units])[known]
        result["xpnmi"] = held_out_information(unit, phone, names)
    return result


def phones_at_frames(
    phones: Sequence[tuple[str, float, float]],
    *,
    frames: int,
    centre: int,
    hop: int,
    sample_rate: int = 16_000,
) -> np.ndarray:
    """The phone at the centre of each frame, "" where there is none.

    Args:
        phones: (name, start, end), half-open intervals in seconds, in order.
        frames: F.
        centre: of frame 0, in samples; hop: from frame to frame, in samples; as in the encoder.

    Returns:
        (F,) strings.

    >>> phones_at_frames([("a", 0.0, 0.05), ("b", 0.05, 0.1)], frames=4, centre=360, hop=640).tolist()
    ['a', 'b', '', '']
    """
    times = (centre + hop * np.arange(frames)) / sample_rate
    starts = np.array([start for _, start, _ in phones])
    ends = np.array([end for _, _, end in phones])
    names = np.array([name for name, _, _ in phones] + [""])
    index = np.searchsorted(starts, times, side="right") - 1
    inside = (index >= 0) & (times < np.append(ends, -math.inf)[index])
    return names[np.where(inside, index, len(phones))]


def contingency(unit: np.ndarray, phone: np.ndarray) -> np.ndarray:
    """Counts of frames per (unit, phone)."""
    table = np.zeros((unit.max() + 1, phone.max() + 1), np.int64)
    np.add.at(table, (unit, phone), 1)
    return table


def entropy(counts: np.ndarray) -> float:
    """Entropy in bits of the distribution of the counts."""
    share = counts[counts > 0] / counts.sum()
    return max(0.0, float(-(share * np.log2(share)).sum()))


def normalised_information(table: np.ndarray) -> float:
    """I(unit; phone) / H(phone) of a table of counts; 0 if there is only one phone."""
    of_phones = entropy(table.sum(axis=0))
    if of_phones == 0:
        return 0.0
    return (of_phones + entropy(table.sum(axis=1)) - entropy(table.ravel())) / of_phones


def held_out_information(unit: np.ndarray, phone: np.ndarray, speaker: np.ndarray) -> float:
    """1 - cross-entropy / H(phone), each speaker's phones predicted from the tables of all others."""
    table = contingency(unit, phone)
    bits = 0.0
    for name in np.unique(speaker):
        own = speaker == name
        others = table.copy()
        np.subtract.at(others, (unit[own], phone[own]), 1)
        # so that a phone of this speaker alone has a probability
        overall = others.sum(axis=0) + 1 / table.shape[1]
        overall = overall / overall.sum()
        share = (others + SMOOTHING * overall) / (others.sum(axis=1, keepdims=True) + SMOOTHING)
        bits -= np.log2(share[unit[own], phone[own]]).sum()
    of_phones = entropy(table.sum(axis=0))
    return float(1 - bits / len(unit) / of_phones) if of_phones else 0.0
