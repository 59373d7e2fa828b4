"""What a corpus costs on this machine, measured on a sample of it that is built twice: a quarter, then all of it.

The slope between the two is what an hour of recordings costs, in CPU seconds and in bytes; what is left over is paid
once, for a model that is loaded or the head of a file. Each step is then called again with nothing left to do: that is
the driver's own share, which no number of workers makes shorter.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus import manifest
from corpus.adapters import ADAPTERS, Row
from corpus.audio import decode, read_header
from corpus.documents import write_documents
from corpus.manifest import RejectedRow
from corpus.records import SAMPLE_RATE, Reject, Utterance
from pipelines import build as steps
from pipelines.execution.runner import Engine, run_stage
from pipelines.settings import Settings, one_of, replace

LOOK_AT = 5_000  # rows of the corpus that the sample is drawn from
HEARD = ("fit units", "units", "pitch", "style")  # steps that can use a GPU


@dataclass(frozen=True)
class Cost:
    """What something costs per hour of recordings, and once whatever their length. CPU seconds, or bytes."""

    hourly: float
    once: float = 0.0

    def of(self, hours: float) -> float:
        """For so many hours.

        >>> Cost(hourly=60.0, once=5.0).of(2)
        125.0
        """
        return self.hourly * hours + self.once


def through(low: tuple[float, float], high: tuple[float, float]) -> Cost:
    """The line through two measurements (hours, cost); a slope or a rest below nothing is noise and counts as none.

    >>> through((1.0, 15.0), (4.0, 30.0))
    Cost(hourly=5.0, once=10.0)
    >>> through((1.0, 1.0), (4.0, 8.0))
    Cost(hourly=2.0, once=0.0)
    """
    (few, cheap), (many, dear) = low, high
    slope = (dear - cheap) / (many - few)
    rest = cheap - slope * few
    return Cost(max(slope, 0.0), rest) if rest >= 0 else Cost(dear / many)


@dataclass(frozen=True)
class Measured:
    """A corpus and this machine, as far as a sample shows them."""

    hours: float  # of recordings in the sample
    utterances: int  # in the sample
    corpus_hours: float | None  # of the whole corpus; None where it is too long to be looked at whole
    work: dict[str, Cost]  # step -> CPU seconds of its tasks, which workers share; `once` is per worker
    driver: dict[str, Cost]  # step -> CPU seconds of the driver
    kmeans: float  # CPU seconds of the driver per frame; 0 where a codebook is given
    tokenizer: float  # CPU seconds of the driver per hour; 0 where one is given
    frames: float  # of the encoder, per hour
    storage: dict[str, Cost]  # folder of the build -> bytes; `once` is per part (shards: per shard)
    recordings: float  # bytes of the recordings themselves per hour
    decode: float  # CPU seconds per hour that decoding alone takes; part of every step that listens
    on_gpu: tuple[str, ...]  # steps whose work was measured on a GPU, in seconds of it
    memory: int  # bytes, the most that this process held


def measure(
    settings: Settings, folder: Path, *, minutes: float = 4.0, say: steps.Say = lambda line: None
) -> Measured:
    """Draw `minutes` of recordings from the corpus, build them in `folder`, and say what each step cost.

    Raises:
        ValueError: the corpus cannot be read, holds too little, or its settings cannot be built.
    """
    one_of("corpus.adapter", settings.corpus.adapter, tuple(ADAPTERS))
    clock = Clock(settings.units.device)
    source = ADAPTERS[settings.corpus.adapter](Path(settings.corpus.source))
    looking, rows = clock.cpu(lambda: list(itertools.islice(source, LOOK_AT + 1)))
    whole, rows = len(rows) <= LOOK_AT, rows[:LOOK_AT]
    drawn = draw(rows, minutes)
    if len(drawn) < 4:
        raise ValueError(f"{settings.corpus.source}: need at least 4 utterances to measure, got {len(drawn)}")
    say(f"plan: builds {hours_of(drawn) * 60:.1f} min of recordings, {len(drawn)} utterances, to measure it")
    quarter = drawn[: -(-len(drawn) // 4)]
    with contextlib.redirect_stderr(io.StringIO()):  # the progress of builds nobody asked for
        models = SampleBuild(folder / "models", settings, clock)
        models.ingest(drawn)
        sampling, kmeans, frames = models.fit()
        tokenizer = models.train_tokenizer()
        pinned = models.pinned()
        SampleBuild(folder / "first", pinned, clock).run(quarter)  # loads libraries, warms up: not measured
        few = SampleBuild(folder / "few", pinned, clock)
        few.run(quarter)
        many = SampleBuild(folder / "many", pinned, clock)
        many.run(drawn)

    def between(of: Callable[[SampleBuild], dict[str, float]]) -> dict[str, Cost]:
        return {name: through((few.hours, of(few)[name]), (many.hours, of(many)[name])) for name in of(many)}

    driver, storage = between(lambda build: build.driver), between(SampleBuild.bytes)
    driver["ingest"] = Cost(driver["ingest"].hourly + looking / hours_of(rows), driver["ingest"].once)
    tars = len(list(many.folder.glob("shards/*/*.tar")))
    storage["shards"] = Cost(storage["shards"].hourly, storage["shards"].once / tars)
    return Measured(
        hours=many.hours,
        utterances=len(drawn),
        corpus_hours=hours_of(rows) if whole else None,
        work=between(lambda build: build.work) | {"fit units": Cost(sampling / many.hours)},
        driver=driver,
        kmeans=kmeans / max(frames, 1),
        tokenizer=tokenizer / many.hours,
        frames=frames / many.hours,
        storage=storage,
        recordings=recorded_bytes(drawn) / many.hours,
        decode=clock.cpu(lambda: decode_all(drawn))[0] / many.hours,
        on_gpu=tuple(name for name in ("fit units", *many.work) if clock.on_gpu(name)),
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


class Clock:
    """What a step took: CPU seconds of this process and those it started, or seconds of the GPU where it uses one."""

    def __init__(self, device: str):
        self.device = device

    def on_gpu(self, step: str) -> bool:
        """Whether a step's work is done by a GPU here."""
        return self.device != "cpu" and step in HEARD

    def cpu(self, step: Callable[[], Any]) -> tuple[float, Any]:
        """CPU seconds, which other work on this machine does not move, and what the step returned."""
        before = cpu_seconds()
        made = step()
        return cpu_seconds() - before, made

    def work(self, name: str, step: Callable[[], Any]) -> float:
        """Seconds of a step by the clock that fits it."""
        if not self.on_gpu(name):
            return self.cpu(step)[0]
        before = time.perf_counter()
        step()
        return time.perf_counter() - before


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and the processes it has seen end."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class SampleBuild:
    """One build of drawn rows in one part, step by step, with the price of each."""

    def __init__(self, folder: Path, settings: Settings, clock: Clock):
        self.folder, self.clock = folder, clock
        self.settings = replace(settings, "text", documents=[])
        self.hours = 0.0
        self.work: dict[str, float] = {}
        self.driver: dict[str, float] = {}

    def ingest(self, rows: list[Row]) -> None:
        """Write the manifest and an empty text table."""
        corpus = self.settings.corpus
        self.driver["ingest"], _ = self.clock.cpu(
            lambda: manifest.write_manifest(
                rows, self.folder / "manifest", part_minutes=1e6, first_minutes=1e6, ids=corpus.ids,
                min_seconds=corpus.min_seconds, max_seconds=corpus.max_seconds,
                transcripts="required" if corpus.unaligned == "reject" else "optional",
            )
        )  # fmt: skip
        write_documents(iter(()), self.folder / "text")
        steps.remember(self.folder, self.settings)
        self.hours = hours_of(rows)

    def fit(self) -> tuple[float, float, int]:
        """Seconds of drawing frames, CPU seconds of k-means, and the frames; 0 where a codebook is given or bundled."""
        if self.settings.units.codebook or self.settings.units.is_bundled:
            return 0.0, 0.0, 0
        stage, _ = steps.frame_sampling(self.folder, self.settings)
        tasks = steps.map_tasks(self.folder, stage, "frames")
        sampling = self.clock.work("fit units", lambda: run_stage(stage, self.folder, tasks, Engine("local")))
        frames = sum((steps.marker(self.folder / task.output) or {}).get("frames", 0) for task in tasks)
        fitting, _ = self.clock.cpu(lambda: steps.fit_units(self.folder, self.settings, Engine("local")))
        return sampling, fitting, frames

    def train_tokenizer(self) -> float:
        """CPU seconds of the BPE; 0 where a tokenizer is given."""
        from shards.text import train_bpe

        text, path = self.settings.text, self.folder / "tokenizer" / "tokenizer.json"
        if text.tokenizer:
            return 0.0
        path.parent.mkdir()
        split = steps.held_out(self.folder, self.settings)
        texts = steps.training_texts(self.folder, self.settings, split)
        return self.clock.cpu(lambda: train_bpe(texts, path, size=text.size))[0]

    def pinned(self) -> Settings:
        """Settings that use the codebook and tokenizer made here."""
        made = self.folder / "codebooks" / "units.safetensors", self.folder / "tokenizer" / "tokenizer.json"
        units, text = self.settings.units, self.settings.text
        codebook = units.codebook or ("" if units.is_bundled else str(made[0]))
        said = replace(self.settings, "units", codebook=codebook)
        return replace(said, "text", tokenizer=text.tokenizer or str(made[1]))

    def run(self, rows: list[Row]) -> None:
        """Every step, and again with nothing left to do."""
        from pipelines.reports import report
        from pipelines.steps import prosody as expressive

        self.ingest(rows)
        given = (self.folder, self.settings, Engine("local"))
        todo: dict[str, Callable[[], Any]] = {"units": lambda: steps.encode(*given)}
        for table in steps.expressive_tables(self.settings):
            todo[table] = functools.partial(getattr(expressive, table), *given)
        todo |= {"align": lambda: steps.align(*given), "interleave": lambda: steps.interleave(*given)}
        for name, step in todo.items():
            first = self.clock.work(name, step)
            self.driver[name], _ = self.clock.cpu(step)
            self.work[name] = max(first - self.driver[name], 0.0)
        self.driver["report"], _ = self.clock.cpu(lambda: report.report(self.folder))

    def bytes(self) -> dict[str, float]:
        """Bytes of each folder of the build."""
        return self.sizes(self.folder)

    @staticmethod
    def sizes(build: Path) -> dict[str, float]:
        """Bytes of each folder of a build, done markers and all; but for what does not grow with the corpus."""
        return {
            folder.name: float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
            for folder in sorted(build.iterdir())
            if folder.is_dir() and folder.name not in ("codebooks", "tokenizer", "text", "frames", "report")
        }


def draw(rows: list[Row], minutes: float) -> list[Row]:
    """Rows of lowest hash, good ones and rejected, until they are `minutes` long together; in that order."""

    def place(row: Row) -> bytes:
        return hashlib.sha256(f"plan|{utterance_of(row).id}".encode()).digest()

    drawn: list[Row] = []
    for row in sorted(rows, key=place):
        drawn.append(row)
        if hours_of(drawn) * 60 >= minutes:
            break
    return drawn


def utterance_of(row: Row) -> Utterance:
    """What is known of a row."""
    return row.utterance if isinstance(row, RejectedRow) else row


def hours_of(rows: list[Row]) -> float:
    """Hours of recordings."""
    return sum(utterance_of(row).samples for row in rows) / SAMPLE_RATE / 3600


def decode_all(rows: list[Row]) -> None:
    """Decode every recording, and keep none."""
    for row in rows:
        with contextlib.suppress(Reject):
            decode(utterance_of(row))


def recorded_bytes(rows: list[Row]) -> float:
    """Bytes of the drawn recordings as they lie on disk; of a stretch of a file, its share."""
    held = 0.0
    for row in rows:
        item = utterance_of(row)
        with contextlib.suppress(Reject):
            header = read_header(item.audio)
            held += header.bytes * item.frames / max(header.frames, 1)
    return held
