"""The packed stream as a torch dataset, for DataLoader workers."""

from collections.abc import Iterator, Mapping
from itertools import count
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from shards.read import Stream, open_stream


class StreamDataset(IterableDataset):
    """Packed sequences of one rank, in the same order with any number of DataLoader workers.

    Use it as `DataLoader(dataset, batch_size=B, num_workers=W)` with the same B. Each worker reads whole lanes of its
    own when W * B divides lanes / world_size; otherwise several workers read the same lanes, which is slower and just
    as exact.

    An item is a dict: tokens, documents, positions and streams as in `Packed`; `sequence`, its global number; and
    `cursors`, those of its lane after it. Workers prefetch, so their own state is ahead of the training loop: pass
    each batch that was trained on to `record`, then `state` is exact.

    Args:
        build, mixture, settings: as `open_stream`; `state` among them resumes.
        batch_size: sequences per batch of the DataLoader.
    """

    def __init__(self, build: Path | str, mixture: Any, *, batch_size: int = 1, **settings: Any):
        super().__init__()
        self._arguments = (build, mixture)
        self._settings = settings
        self._batch_size = batch_size
        if batch_size < 1:
            raise ValueError(f"dataset: need batch_size >= 1, got {batch_size}")
        self._trained = self._open()  # reads no samples; wrong settings fail here, not in a worker

    def _open(self) -> Stream:
        return open_stream(*self._arguments, **self._settings)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        stream = self._open()
        stream.keep(_lanes(stream, number, workers, self._batch_size))
        for index in count():
            if index // self._batch_size % workers != number:
                stream.skip()
                continue
            sequence, lane = stream.sequence, stream.lane
            packed = next(stream)
            yield {**packed._asdict(), "sequence": sequence, "cursors": np.array(stream.cursors(lane))}

    def record(self, batch: Mapping[str, Any]) -> None:
        """Note that a batch (or an item) has been trained on."""
        sequences = np.atleast_1d(np.asarray(batch["sequence"])).tolist()
        cursors = np.asarray(batch["cursors"]).reshape(len(sequences), len(self._trained.names), 4).tolist()
        for sequence, own in zip(sequences, cursors, strict=True):
            if sequence != self._trained.sequence:
                raise ValueError(f"record: need sequence {self._trained.sequence} next, got {sequence}")
            self._trained.skip_to(own)

    def state(self) -> dict[str, Any]:
        """The state after the last batch that was recorded; as `Stream.state`."""
        return self._trained.state()


def _lanes(stream: Stream, number: int, workers: int, batch_size: int) -> set[int]:
    """Lanes that the batches of a worker come from: worker w of W has batches w, w + W, ..."""
    lanes = stream.lanes
    period = lcm(len(lanes), batch_size * workers)
    mine = (index for index in range(period) if index // batch_size % workers == number)
    return {lanes[index % len(lanes)] for index in mine}
