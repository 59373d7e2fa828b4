"""HuBERT on utterances of any length at once, without padded frames.

A padded batch changes the features of a HuBERT: padding reaches the group norm of the first convolution, the attention,
the positional convolution and, where there is one, the batch norm before it. So nothing is padded here:

    waveform ──> convolutions ──┐                                ┌──> frames
    waveform ──> convolutions ──┼──> rows of all utterances ─────┼──> frames
    waveform ──> convolutions ──┘    (linear layers, norms)      └──> frames
       convolutions.py                   transformer.py             split again

This file cuts recordings into pieces, groups pieces in batches, and joins the results.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from corpus.records import SAMPLE_RATE
from units.gpu import LAUNCHING, HostCopy, can_compile, map_one_ahead, to_device, usable_device
from units.hubert.convolutions import Convolutions, FirstConvolution
from units.hubert.settings import ACTIVATIONS, HubertSettings
from units.hubert.transformer import Transformer
from units.tensor_files import hash_settings, hash_tensors
from units.threads import single_threaded_pool
from units.waveform import check_waveform
from units.windows import window_frames, windows

REFERENCE_CHUNK = 1_600_000  # samples: Spirit LM's tokenizer cuts at 100 s
REFERENCE_TAIL = 1_280  # samples: and drops a shorter last chunk
WINDOW_SECONDS = 100.0  # longest segment encoded at once by chunking="overlap"
CONTEXT_SECONDS = 10.0  # of it, dropped at either inner edge
BATCH_SECONDS = 30.0  # that go through the network at once on a CPU, where it hardly matters
DEVICE_BATCH_SECONDS = 160.0  # the same on a GPU, which needs much work at a time: about 2 GB for hubert-base


CHUNKINGS = ("overlap", "reference", "none")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Piece:
    """Samples [start, stop) of waveform `index`, encoded at once.

    Of its frames, `kept` from `first` on are kept; they are those of the waveform from `frame` on.
    """

    index: int
    start: int
    stop: int
    first: int
    kept: int
    frame: int


class HubertEncoder:
    """The first `layer` transformer blocks of a HuBERT: `encode` gives the `hidden_states[layer]` of transformers.

    Create one with `units.encoders.load_encoder`. Fields: `frame_rate` (Hz), `hop`, `centre` (of frame 0) and `minimum`
    in samples, `dimension`, `identity`; `exact`: whether features are the same to the last bit in any batch.
    """

    def __init__(
        self,
        settings: HubertSettings,
        weights: dict[str, torch.Tensor],
        *,
        layer: int | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        chunking: str = "overlap",
        batch_seconds: float | None = None,
        window_seconds: float = WINDOW_SECONDS,
        context_seconds: float = CONTEXT_SECONDS,
        compiled: bool | None = None,
    ):
        layer = settings.layers if layer is None else layer
        if type(layer) is not int or not 0 <= layer <= settings.layers:
            raise ValueError(f"encoder.layer: need an integer 0 <= layer <= {settings.layers}, got {layer!r}")
        if batch_seconds is not None and not batch_seconds > 0:
            raise ValueError(f"encoder.batch_seconds: need more than 0, got {batch_seconds}")
        if dtype not in DTYPES:
            raise ValueError(f"encoder.dtype: need one of {list(DTYPES)}, got {dtype!r}")
        if chunking not in CHUNKINGS:
            raise ValueError(f"encoder.chunking: need one of {list(CHUNKINGS)}, got {chunking!r}")
        self.settings, self.layer, self.dtype, self.chunking = settings, layer, dtype, chunking
        self.device = usable_device(device)
        compiled = can_compile(self.device) if compiled is None else compiled
        self._on_device = self.device.type != "cpu"
        self.exact = not self._on_device and not compiled
        self.hop = settings.hop
        self.minimum = settings.receptive_field
        self.centre = settings.receptive_field // 2
        self.frame_rate = SAMPLE_RATE / settings.hop
        self._window, self._context = window_frames(window_seconds, context_seconds, self.frame_rate)
        if batch_seconds is None:
            batch_seconds = DEVICE_BATCH_SECONDS if self._on_device else BATCH_SECONDS
        self._batch_frames = batch_seconds * self.frame_rate
        self.provenance = {
            "encoder": "hubert",
            "weights": hash_tensors(weights),
            "layer": layer,
            "frame_rate": self.frame_rate,
            **{key: json_type(value) for key, value in asdict(settings).items() if key != "layers"},
            "dtype": dtype,
            "chunking": chunking,
            "window_seconds": window_seconds,
            "context_seconds": context_seconds,
        }
        self.identity = hash_settings(self.provenance)
        full = {name: tensor.to(self.device, torch.float32) for name, tensor in weights.items()}
        kind = DTYPES[dtype]
        self._convolutions = Convolutions(settings, full, kind, ACTIVATIONS[settings.conv_activation])
        self._transformer = Transformer(
            settings, full, layer, kind, ACTIVATIONS, padded=self._on_device, compiled=compiled
        )
        self.dimension = self._transformer.dimension

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features of each waveform, which do not depend on the others in the list.

        Args:
            waveforms: each (T,) float32, mono at 16 kHz. Longer ones than the window (100 s) are encoded in overlapping
                windows of which the middle is kept; the waveform and group norms still span the whole recording.

        Returns:
            One (F, D) float32 array per waveform, in order; (0, D) where it is shorter than `minimum`.

        Raises:
            ValueError: a waveform is not one-dimensional, not of floating point, or holds NaN or infinite samples.
        """
        return self.map(waveforms, lambda features: features)

    def map(
        self,
        waveforms: Sequence[np.ndarray],
        function: Callable[[torch.Tensor], torch.Tensor],
        finish: Callable[[torch.Tensor, np.ndarray], np.ndarray] = lambda features, values: values,
        *,
        alone: bool = False,
    ) -> list[np.ndarray]:
        """As `encode`, with `function` applied to features while they are on the device.

        On a CPU each of torch's threads works on a batch of its own, so that no result depends on their number. On a
        GPU one batch is computed ahead of the one whose result is awaited.

        Args:
            waveforms: as for `encode`.
            function: (F, D) float32 tensor -> (F, ...) tensor on the same device, frame by frame: a long recording
                comes in pieces. It should not wait for the device.
            finish: the same features and, on the host, what `function` returned for them -> (F, ...) array: for what
                only the host can do.
            alone: put no two waveforms in one batch.

        Returns:
            One (F, ...) array per waveform, in order.
        """
        recordings = [torch.from_numpy(check_waveform(waveform, i)) for i, waveform in enumerate(waveforms)]
        pieces = [self._pieces(i, len(recording)) for i, recording in enumerate(recordings)]
        threads = 1 if self._on_device else torch.get_num_threads()
        groups = pieces if alone else [[piece for several in pieces for piece in several]]
        batches = [batch for group in groups for batch in self._batches(group, threads)]
        shared: dict[
            int, FirstConvolution
        ] = {}  # of recordings in several pieces, which share their statistics

        @torch.inference_mode()
        def launch(batch: list[Piece]) -> tuple[torch.Tensor, HostCopy]:
            with LAUNCHING if self._on_device else nullcontext():
                features = self._features(recordings, batch, shared)
                return features, HostCopy(function(features))

        def complete(launched: tuple[torch.Tensor, HostCopy]) -> np.ndarray:
            features, values = launched
            return finish(features, values.array())

        long = [] if self.chunking == "reference" else [i for i, some in enumerate(pieces) if len(some) > 1]
        results: list[np.ndarray | None] = [None] * len(recordings)
        empty = complete(
            (nothing := torch.zeros(0, self.dimension, device=self.device), HostCopy(function(nothing)))
        )
        with single_threaded_pool(threads) as run:
            shared |= zip(long, run(lambda i: self._first(recordings[i]), long), strict=True)
            computed: Iterable[np.ndarray] = (
                map(complete, map_one_ahead(launch, batches))
                if self._on_device
                else run(lambda batch: complete(launch(batch)), batches)
            )
            for batch, values in zip(batches, computed, strict=True):
                start = 0
                for piece in batch:
                    whole = results[piece.index]
                    if whole is None:
                        size = pieces[piece.index][-1].frame + pieces[piece.index][-1].kept
                        whole = results[piece.index] = np.empty((size, *values.shape[1:]), values.dtype)
                    whole[piece.frame : piece.frame + piece.kept] = values[start : start + piece.kept]
                    start += piece.kept
        return [empty.copy() if whole is None else whole for whole in results]

    @torch.inference_mode()
    def _first(self, recording: torch.Tensor) -> FirstConvolution:
        return self._convolutions.first(recording.to(self.device))

    @torch.inference_mode()
    def _features(
        self, recordings: list[torch.Tensor], batch: list[Piece], shared: dict[int, FirstConvolution]
    ) -> torch.Tensor:
        """(rows, D) float32: the frames of a batch that are kept, in its order."""
        parts = [recordings[piece.index][piece.start : piece.stop] for piece in batch]
        if self._on_device:  # one copy to the device, for which the host does not wait
            parts = list(to_device(torch.cat(parts), self.device).split([len(part) for part in parts]))
        if self._on_device and not any(piece.index in shared for piece in batch):
            firsts = self._convolutions.first_of_batch(parts)
        else:
            firsts = [
                shared.get(piece.index) or self._convolutions.first(part, keep=not self._on_device)
                for piece, part in zip(batch, parts, strict=True)
            ]
        if self._on_device:
            frames = self._convolutions.frames_of_batch(parts, firsts)
        else:
            frames = list(map(self._convolutions.frames, parts, firsts))
        rows = self._transformer(frames)
        if all(piece.kept == len(part) for piece, part in zip(batch, frames, strict=True)):
            return rows
        split = rows.split([len(part) for part in frames])
        return torch.cat([part[p.first : p.first + p.kept] for p, part in zip(batch, split, strict=True)])

    def _pieces(self, index: int, samples: int) -> list[Piece]:
        """The segments in which a waveform is encoded."""
        pieces: list[Piece] = []
        if self.chunking == "reference":
            frame = 0
            for start in range(0, samples, REFERENCE_CHUNK):
                stop = min(start + REFERENCE_CHUNK, samples)
                count = self.settings.frames(stop - start)
                if stop - start >= REFERENCE_TAIL and count:
                    pieces.append(Piece(index, start, stop, 0, count, frame))
                    frame += count
            return pieces
        frames = self.settings.frames(samples)
        longest = frames if self.chunking == "none" else self._window
        for window in windows(frames, longest, self._context):
            # the statistics of a recording in one piece are those of all its samples
            stop = samples if window.kept == frames else (window.end - 1) * self.hop + self.minimum
            pieces.append(
                Piece(index, window.begin * self.hop, stop, window.first, window.kept, window.place)
            )
        return pieces

    def _batches(self, pieces: list[Piece], threads: int) -> list[list[Piece]]:
        """Pieces of similar length together, longest first, as many as the budget of frames holds."""
        pieces = sorted(pieces, key=lambda p: (p.start - p.stop, p.index, p.start))
        counts = [self.settings.frames(piece.stop - piece.start) for piece in pieces]
        budget = min(self._batch_frames, sum(counts) / threads) if threads > 1 else self._batch_frames
        batches: list[list[Piece]] = []
        frames = math.inf
        for piece, more in zip(pieces, counts, strict=True):
            if frames + more > budget:
                batches.append([])
                frames = 0
            batches[-1].append(piece)
            frames += more
        return batches


def json_type(value: Any) -> Any:
    """Tuples as lists, so that a dict equals itself read back from JSON."""
    return list(value) if isinstance(value, tuple) else value
