"""Everything that wordweave does on one GPU: units, pitch and style, alignment, k-means, training.

    python -m benchmarks.gpu [--only units,ctc] [--build BUILD] [--speech-hours 2] [--output rows.json]

One line of JSON per measurement, printed as soon as it is known. A part that fails says so, and the next one runs.
Speech is the recorded speech that WORDWEAVE_SPEECH names, cut into utterances of 2 to 18 s and written as FLAC; without
it, noise. Models other than the bundled ones have random weights: speed does not depend on their values. "Hours per
hour" are hours of audio per hour of wall time: of one worker process on the first half hour of it, or of several
that share the GPU on all of it. `--build` names a build with shards, which the trainer reads.
"""

import argparse
import collections
import functools
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch

from benchmarks.units_speed import read_waveforms
from corpus import files
from corpus.manifest import write_manifest
from corpus.records import SAMPLE_RATE, Utterance
from pipelines.execution.task import Task, TaskThreads, failure_of, marker_path
from pipelines.layout import part_tasks, parts
from pipelines.steps import audio
from pipelines.steps.base import token_batch
from pipelines.steps.units import UNITS

Row = dict[str, Any]
DTYPES = ("float32", "float16", "bfloat16")
PART_MINUTES = 10.0


@dataclass
class Bench:
    """What the parts share."""

    device: torch.device
    folder: Path
    hours: float
    build: str | None
    tiny: bool
    rows: list[Row] = field(default_factory=list)

    @functools.cached_property
    def recordings(self) -> list[np.ndarray]:
        """The recorded speech as it is."""
        return read_waveforms(60)[0]

    @functools.cached_property
    def waves(self) -> list[np.ndarray]:
        """Utterances of 2 to 18 s, `hours` in all."""
        rng = np.random.default_rng(0)
        joined = np.concatenate(self.recordings)
        waves: list[np.ndarray] = []
        while sum(map(len, waves)) < self.hours * 3600 * SAMPLE_RATE:
            length = int(np.clip(rng.lognormal(2.1, 0.5), 2, 18) * SAMPLE_RATE)
            start = int(rng.integers(0, len(joined) - length))
            waves.append(joined[start : start + length])
        return waves

    @property
    def seconds(self) -> float:
        """Of all utterances."""
        return sum(map(len, self.waves)) / SAMPLE_RATE

    @functools.cached_property
    def manifest(self) -> Path:
        """A build that holds the manifest of the utterances, which are written as FLAC."""
        import soundfile

        for i, wave in enumerate(self.waves):
            soundfile.write(self.folder / f"{i}.flac", wave, SAMPLE_RATE, subtype="PCM_16")
        return self.make_manifest("build", PART_MINUTES)

    def make_manifest(self, name: str, minutes: float) -> Path:
        """A build that holds the manifest of the FLAC files, in parts of `minutes` minutes."""
        text = "they went out for a walk and one of them came back"
        rows = [
            Utterance(
                f"u{i}", str(self.folder / f"{i}.flac"), len(wave), SAMPLE_RATE, text=text, speaker=f"s{i % 50}",
                language="en",
            )
            for i, wave in enumerate(self.waves)
        ]  # fmt: skip
        write_manifest(rows, self.folder / name / "manifest", part_minutes=minutes, first_minutes=minutes)
        return self.folder / name

    def timed(self, run: Callable[[], Any], times: int = 3) -> float:
        """Median of wall seconds, after one run that does not count."""
        run()
        seconds = []
        for _ in range(1 if self.tiny else times):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def wait(self) -> None:
        """Until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def busy(self, run: Callable[[], Any]) -> Row:
        """Share of the wall time in which the GPU works, kernels per second, and the share of the longest kernels."""
        if self.device.type != "cuda":
            return {}
        from torch.profiler import ProfilerActivity, profile

        self.wait()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            start = time.perf_counter()
            run()
            self.wait()
            wall = time.perf_counter() - start
        cuda = torch.autograd.DeviceType.CUDA
        events = [event.time_range for event in profiler.events() if event.device_type == cuda]
        total = end = 0.0
        for event in sorted(events, key=lambda event: event.start):
            total += max(0.0, event.end - max(event.start, end))
            end = max(end, event.end)
        kernels = sorted(profiler.key_averages(), key=lambda kernel: -kernel.device_time_total)[:12]
        longest = {kernel.key[:60]: round(kernel.device_time_total / 1e6 / wall, 3) for kernel in kernels}
        return {
            "gpu_busy": round(total / 1e6 / wall, 3), "kernels_per_second": round(len(events) / wall),
            "longest": longest,
        }  # fmt: skip

    def tasks(self, stage: Any) -> list[Task]:
        """One for each part of the manifest."""
        return part_tasks(self.manifest, stage, stage.name)

    def one_worker(self, stage: Any) -> tuple[Callable[[], None], Any, float]:
        """A call that does the first half hour by the stage's worker; the worker; and the seconds of audio."""
        worker, tasks = stage.open(), self.tasks(stage)[: max(1, round(30 / PART_MINUTES))]
        run = functools.partial(do_again, worker, self.manifest, tasks)
        return run, worker, sum(task.samples for task in tasks) / SAMPLE_RATE

    def several_workers(self, stage: Any, count: int) -> Row:
        """Hours per hour of as many processes on one GPU."""
        spawn, tasks = multiprocessing.get_context("spawn"), self.tasks(stage)
        barrier, queue = spawn.Barrier(count), spawn.Queue()
        workers = [
            spawn.Process(target=work, args=(stage, self.manifest, tasks[i::count], barrier, queue))
            for i in range(count)
        ]
        for worker in workers:
            worker.start()
        times = [queue.get(timeout=240) for _ in workers]
        for worker in workers:
            worker.join()
        seconds = max(end for _, end in times) - min(start for start, _ in times)
        return {"workers": count, "hours_per_hour": sum(t.samples for t in tasks) / SAMPLE_RATE / seconds}

    def hubert(self) -> Path:
        """A hubert-base with random weights."""
        from transformers import HubertConfig, HubertModel

        place = self.folder / "hubert"
        if not place.exists():
            torch.manual_seed(0)
            HubertModel(HubertConfig(**(SMALL if self.tiny else {}))).save_pretrained(place)
        return place

    @functools.cached_property
    def codebook(self) -> Path:
        """501 centroids of features of the hubert-base, by k-means.

        With others, such as features with noise, 71 % of recordings have a frame near a border between two units, with
        these 4 %.
        """
        from units.encoders import load_encoder
        from units.kmeans import Codebook, train_with_torch

        features = np.concatenate(
            load_encoder(self.hubert(), device=str(self.device)).encode(self.waves[:60])
        )
        start = features[np.random.default_rng(0).permutation(len(features))[:501]]
        centroids = train_with_torch(
            features, len(start), iterations=4, restarts=1, seed=0, seeding="random", start=start,
            device=str(self.device),
        )  # fmt: skip
        Codebook(centroids).save(self.folder / "units.safetensors")
        return self.folder / "units.safetensors"


def do_again(worker: Any, build: Path, tasks: Sequence[Task]) -> None:
    """Do tasks whether or not they are done, as the engines do them."""

    def run(task: Task) -> None:
        marker_path(build / task.output).unlink(missing_ok=True)
        if worker.run(build, task) != "done":
            raise RuntimeError(failure_of(build, task))

    with TaskThreads(worker.stage.tasks_at_once) as threads:
        for task in tasks:
            threads.submit(run, task)


def work(stage: Any, build: Path, tasks: Sequence[Task], barrier: Any, queue: Any) -> None:
    """One of several processes: once so that kernels are chosen and compiled, once for its time."""
    worker = stage.open()
    do_again(worker, build, tasks[:1])
    barrier.wait(timeout=200)
    start = time.time()
    do_again(worker, build, tasks)
    queue.put((start, time.time()))


SMALL = {
    "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192,
    "conv_dim": (32,) * 7,
}  # fmt: skip


def machine(bench: Bench) -> Iterator[Row]:
    """The device, and its ceiling for matrix products."""
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU"
    cores = len(os.sched_getaffinity(0))
    yield {
        "device": name,
        "torch": torch.__version__,
        "cores": cores,
        "hours": round(bench.seconds / 3600, 2),
    }
    size = 256 if bench.tiny else 8192
    for dtype in DTYPES:
        a, b = (torch.randn(size, size, device=bench.device, dtype=getattr(torch, dtype)) for _ in range(2))
        seconds = bench.timed(lambda a=a, b=b: [a @ b for _ in range(5)])  # type: ignore[misc]
        yield {"matrix products": dtype, "teraflops": 5 * 2 * size**3 / seconds / 1e12}


def units(bench: Bench) -> Iterator[Row]:
    """FLAC files to units of hubert-base, against the bare transformers model on equal batches on the device."""
    from transformers import HubertModel

    from pipelines.steps.units import EncodeUnits

    for dtype in DTYPES[: 1 if bench.tiny else 3]:
        kind = getattr(torch, dtype)
        model = HubertModel.from_pretrained(bench.hubert()).eval().to(bench.device, kind)
        count = 2 if bench.tiny else 32
        batch = torch.randn(count, 10 * SAMPLE_RATE, device=bench.device, dtype=kind) * 0.1
        with torch.inference_mode():
            for rounded in (
                False,
                True,
            ):  # torch rounds float32 to TF32 in convolutions unless told otherwise
                with torch.backends.cudnn.flags(enabled=True, allow_tf32=rounded):
                    seconds = bench.timed(lambda model=model, batch=batch: model(batch))  # type: ignore[misc]
                bare = count * 10 / seconds
                yield {
                    "bare transformers model": dtype, "convolutions_in_tf32": rounded and dtype == "float32",
                    "hours_per_hour": bare,
                }  # fmt: skip
        del model, batch
        stage = EncodeUnits(
            str(bench.hubert()), None, dtype, str(bench.device), "", str(bench.codebook), "", False
        )
        start = time.perf_counter()
        run, worker, length = bench.one_worker(stage)
        encoder = worker.process.args[0]
        opened, calls = time.perf_counter() - start, [0, 0]
        inner = encoder.map

        def counted(
            waves: Any, *functions: Any, inner: Any = inner, calls: Any = calls, **options: Any
        ) -> Any:
            calls[options.get("alone", False)] += len(waves)
            return inner(waves, *functions, **options)

        encoder.map = counted
        rate = length / bench.timed(run, 2)
        memory = torch.cuda.max_memory_allocated() / 1e9 if bench.device.type == "cuda" else 0
        yield {
            "FLAC to units, hubert-base": dtype, "hours_per_hour": rate, "of_bare": rate / bare, "gigabytes": memory,
            "encoded_twice": calls[1] / max(calls[0], 1), "open_seconds": opened, **bench.busy(run),
        }  # fmt: skip
        waves, book = bench.waves[:240], worker.process.args[1]
        groups = [waves[start : start + 30] for start in range(0, len(waves), 30)]
        assign = functools.partial(inner, function=book.assign_on_device)
        seconds = bench.timed(lambda: list(map(assign, groups)), 2)  # noqa: B023
        length = sum(map(len, waves)) / SAMPLE_RATE
        yield {"units from memory, none twice": dtype, "of_bare": length / seconds / bare}
        del run, worker, encoder, book
        clear()
        if dtype != "bfloat16":
            row = bench.several_workers(stage, 2 if bench.tiny else 4)
            yield {"FLAC to units, hubert-base": dtype, **row, "of_bare": row["hours_per_hour"] / bare}


def same(bench: Bench) -> Iterator[Row]:
    """Units of many recordings in a call against those of each alone, of half precision, and of a CPU."""
    from units import kmeans
    from units.encode import encode_units
    from units.encoders import bundled_codebook, load_encoder
    from units.verify import share_of_differences, verify

    waves, device = bench.recordings, str(bench.device)
    for name, place, path in (
        ("compact", "compact", bundled_codebook()),
        ("hubert-base, random weights", str(bench.hubert()), bench.codebook),
    ):
        book = kmeans.load(path)
        exact = load_encoder(place, device=device)
        for dtype in DTYPES[: 1 if bench.tiny else 3]:
            encoder = exact if dtype == "float32" else load_encoder(place, device=device, dtype=dtype)
            yield {
                "other units": name, "dtype": dtype, "batch_against_alone": verify(encoder, book, waves),
                "against_float32": verify(encoder, book, waves, reference=exact),
            }  # fmt: skip
        some = waves[:10]
        cpu = encode_units(load_encoder(place), book, some)
        yield {
            "other units": name,
            "gpu_against_cpu": share_of_differences(encode_units(exact, book, some), cpu),
        }


def compact(bench: Bench) -> Iterator[Row]:
    """FLAC files to units of the bundled encoder."""
    from pipelines.steps.units import EncodeUnits
    from units.encoders import bundled_codebook

    for dtype in DTYPES[: 1 if bench.tiny else 2]:
        book = str(bundled_codebook())
        stage = EncodeUnits("compact", None, dtype, str(bench.device), "", book, "", False)
        run, _, length = bench.one_worker(stage)
        rate = length / bench.timed(run, 2)
        yield {"FLAC to units, compact": dtype, "hours_per_hour": rate, **bench.busy(run)}
        if dtype == "float32":
            row = bench.several_workers(stage, 2 if bench.tiny else 4)
            yield {"FLAC to units, compact": dtype, **row}


def prosody(bench: Bench) -> Iterator[Row]:
    """FLAC files to F0 and style features; and whether a recording's F0 depends on its neighbours."""
    from pipelines.steps.prosody import MeasureProsody
    from units.prosody.f0 import extract, extract_batch

    device = str(bench.device)
    stage = MeasureProsody(device, "")
    run, _, length = bench.one_worker(stage)
    rate = length / bench.timed(run, 1)
    yield {"FLAC to F0 and style features": "", "hours_per_hour": rate, **bench.busy(run)}
    waves = bench.waves[:240]
    seconds = bench.timed(lambda: extract_batch(waves, device=device), 1)
    yield {"F0 from memory": "", "hours_per_hour": sum(map(len, waves)) / SAMPLE_RATE / seconds}
    yield {"FLAC to F0 and style features": "", **bench.several_workers(stage, 2 if bench.tiny else 8)}
    some = bench.waves[:30]
    pairs = zip(extract_batch(some, device=device), (extract(x, device=device) for x in some), strict=True)
    yield {"F0 of a batch, alone": "", "equal": all(np.array_equal(a.hertz, b.hertz) for a, b in pairs)}


def ctc(bench: Bench) -> Iterator[Row]:
    """FLAC files to word times: the bundled model, and a wav2vec2-base with random weights at two batch sizes."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    from pipelines.steps.align import AlignWords

    place, letters = (
        bench.folder / "ctc",
        ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAOINHSRDLUMWCFGYPBVKXJQZ'"],
    )
    torch.manual_seed(0)
    config = Wav2Vec2Config(vocab_size=32, pad_token_id=0, **(SMALL if bench.tiny else {}))
    Wav2Vec2ForCTC(config).save_pretrained(place)
    (place / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    (place / "preprocessor_config.json").write_text(
        json.dumps({"do_normalize": True, "sampling_rate": 16000})
    )
    for model, batch in (("compact", 16), (str(place), 1), (str(place), 16)):
        places = ((("batch", batch), ("device", str(bench.device))), ())
        stage = AlignWords(("ctc", (("model", model), ("minimum_confidence", 0.0))), "", places=places)
        run, worker, length = bench.one_worker(stage)
        name = "compact" if model == "compact" else "wav2vec2-base, random weights"
        rate = length / bench.timed(run, 1)
        first = files.read_table(bench.manifest / bench.tasks(stage)[0].output).to_pylist()
        reasons = collections.Counter(
            f"{row['reject']}: {row['detail']}"[:100] for row in first if row["reject"]
        )
        yield {
            "FLAC to word times, ctc": name, "batch": batch, "hours_per_hour": rate,
            "rejected": reasons.most_common(1), **bench.busy(run),
        }  # fmt: skip
    yield {
        "FLAC to word times, ctc": name,
        "batch": batch,
        **bench.several_workers(stage, 2 if bench.tiny else 8),
    }
    rng = np.random.default_rng(0)
    items = [
        (Utterance(f"u{i}", "", len(wave), SAMPLE_RATE, text="they went out for a walk"), wave)
        for i, wave in enumerate(bench.waves[:24])
    ]
    aligner = worker.process.args[0]
    whole = aligner.align(items, {})
    order = rng.permutation(len(items))
    other = aligner.align([items[i] for i in order], {})
    moved = [
        abs(a.start - b.start)
        for place, i in enumerate(order)
        for a, b in zip(whole[i].words, other[place].words, strict=True)
    ]
    yield {"word starts in another order of recordings": "", "largest_seconds": max(moved, default=0.0)}


def kmeans(bench: Bench) -> Iterator[Row]:
    """Twelve of Lloyd's steps on the device, 200 000 x 768 into 501, against float64 on the CPU for two of them."""
    from units.kmeans import train_with_torch

    rows, width, clusters = (2000, 64, 20) if bench.tiny else (200_000, 768, 501)
    x = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    start = x[:clusters].copy()

    def run(steps: int) -> np.ndarray:
        return train_with_torch(
            x,
            clusters,
            iterations=steps,
            restarts=1,
            seed=0,
            seeding="random",
            start=start,
            device=str(bench.device),
        )

    yield {"k-means, 12 steps": "", "seconds": bench.timed(lambda: run(12), 1)}
    expected = start.astype(np.float64)
    for _ in range(2):
        nearest = ((expected**2).sum(1) / 2 - x @ expected.T).argmin(1)
        counts = np.bincount(nearest, minlength=clusters)
        sums = np.stack([x[nearest == k].sum(0, dtype=np.float64) for k in range(clusters)])
        expected = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], expected)
    yield {"k-means, against float64": "", "largest_error": float(np.abs(run(2) - expected).max())}
    yield {"k-means, again": "", "equal": bool(np.array_equal(run(12), run(12)))}


def decode(bench: Bench) -> Iterator[Row]:
    """Decoding alone, by one and by all threads."""
    from pipelines.steps.audio import decode_batch

    folder = bench.manifest / "manifest"
    tables = [files.read_table(folder / part.name) for part in parts(bench.manifest)[:6]]
    length = sum(part.samples for part in parts(bench.manifest)[:6]) / SAMPLE_RATE
    batches = [batch for table in tables for batch in table.to_batches()]
    for threads in (1, len(os.sched_getaffinity(0))):
        seconds = bench.timed(lambda n=threads: [decode_batch(batch, n) for batch in batches], 1)  # type: ignore[misc]
        yield {"decode FLAC, threads": threads, "hours_per_hour": length / seconds}


@dataclass(frozen=True)
class ImitatedUnits(audio.AudioStage):
    """Units of a GPU that is a queue of waits: `speed` hours of audio per hour. It needs none."""

    speed: float
    parts_at_once: int
    device: str = "cuda"
    name: ClassVar[str] = "imitated"
    version: ClassVar[int] = 1

    @property
    def tasks_at_once(self) -> int:
        return self.parts_at_once

    def open(self) -> audio.AudioWorker:
        queue = ThreadPoolExecutor(1)

        def process(batch: pa.RecordBatch, rows: list[audio.Row]) -> pa.RecordBatch:
            lengths = [0 if wave is None else len(wave) for _, wave, _ in rows]
            queue.submit(time.sleep, sum(lengths) / SAMPLE_RATE / self.speed).result()
            units: list[np.ndarray | None] = [np.zeros(length // 320, np.int16) for length in lengths]
            return token_batch(batch, units, UNITS)

        return audio.AudioWorker(self, UNITS, process, turn=threading.Semaphore(2))


def overlap(bench: Bench) -> Iterator[Row]:
    """How busy the real path, from FLAC to tables, keeps a GPU of a given speed, imitated: runs on any machine."""
    bench.manifest  # noqa: B018  writes the FLAC files
    for minutes in (1.0, PART_MINUTES):
        build = bench.make_manifest(f"overlap-{minutes:g}", minutes)
        for at_once in (1, 3):
            stage = ImitatedUnits(1000.0, at_once)
            tasks, worker = part_tasks(build, stage, stage.name), stage.open()
            # the least: other work on the machine only adds to it
            seconds = min(bench.timed(lambda: do_again(worker, build, tasks), 1) for _ in range(3))  # noqa: B023
            yield {
                "imitated GPU, parts of minutes": minutes, "parts": len(tasks), "parts_at_once": at_once,
                "gpu_busy": bench.seconds / stage.speed / seconds,
                "milliseconds_lost_per_part": 1e3 * (seconds - bench.seconds / stage.speed) / len(tasks),
            }  # fmt: skip


def mfu(bench: Bench) -> Iterator[Row]:
    """A training step of the 1b preset at 4096; see `benchmarks.lm_mfu`."""
    from benchmarks.lm_mfu import measure

    size = {"preset": "nano", "length": 64, "steps": 7} if bench.tiny else {"steps": 15}
    for sequences, document in ((8, 600), (8, 0), (4, 600), (16, 600)):
        start = time.perf_counter()
        some = {"sequences": sequences, "document": document, "compiled": not bench.tiny}
        row = measure(**size, **some)  # type: ignore[arg-type]
        yield {"training step": "1b", **row, "seconds": time.perf_counter() - start}
        clear()


def train(bench: Bench) -> Iterator[Row]:
    """`lm.training.train.train` itself: loader, log, evaluation, checkpoint, and a resume from it."""
    from lm.training.train import TrainSettings
    from lm.training.train import train as run

    if bench.build is None:
        yield {"train": "left out: needs --build"}
        return
    size, length, sequences, steps = ("nano", 128, 4, 6) if bench.tiny else ("1b", 4096, 8, 12)
    cuda = bench.device.type == "cuda"
    lines: list[Row] = []

    def settings(more: int) -> TrainSettings:
        return TrainSettings(
            bench.build or "", str(bench.folder / "run"), preset=size, sequence_length=length, micro_batch=4, keep=1,
            batch_tokens=sequences * length, tokens=sequences * length * steps * more, optimiser="adamw", dropout=0.0,
            learning_rate=3e-4, schedule="constant", compile=cuda, log_every=3, evaluate_every=10**6,
            save_every=10**6, patience=0, device=str(bench.device),
        )  # fmt: skip

    for more in (1, 2):
        start = time.perf_counter()
        run(settings(more), resume=more > 1, progress=lines.append)
        rates = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
        yield {
            "train": size, "resumed": more > 1, "tokens_per_second": max(rates),
            "mfu": max((line.get("mfu", 0.0) for line in lines), default=0.0), "seconds": time.perf_counter() - start,
            "steps": lines[-1]["step"], "loss": lines[-1].get("loss"),
        }  # fmt: skip


PARTS = {
    part.__name__: part
    for part in (machine, units, same, compact, prosody, ctc, kmeans, decode, overlap, mfu, train)
}


def clear() -> None:
    """Give back what a part held on the GPU."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--build")
    parser.add_argument("--speech-hours", type=float, default=2.0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no part after this time")
    parser.add_argument("--tiny", action="store_true", help="small shapes: whether everything runs")
    requested = parser.parse_args()
    started, failed = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            torch.device(requested.device),
            Path(folder),
            requested.speech_hours,
            requested.build,
            requested.tiny,
        )
        for name in requested.only.split(","):
            if time.monotonic() - started > requested.seconds:
                rows: Any = [{"left out": "no time"}]
            else:
                rows = PARTS[name](bench)
            try:
                for row in rows:
                    row = {"part": name} | {
                        key: float(f"{value:.5g}") if isinstance(value, float) else value
                        for key, value in row.items()
                    }
                    bench.rows.append(row | {"at": round(time.monotonic() - started, 1)})
                    print(json.dumps(bench.rows[-1]), flush=True)
                    if requested.output:
                        requested.output.write_text(json.dumps(bench.rows, indent=1))
            except Exception:
                failed.append(name)
                print(json.dumps({"part": name, "failed": traceback.format_exc(limit=-4)}), flush=True)
            clear()
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
