"""The cost of a corpus on this machine, measured on a sample of it that is built twice: a quarter, then all of it.

The slope between the two is what an hour of recordings costs, in CPU seconds and in bytes; the rest is paid
once, for a model that is loaded or the head of a file. Each step then runs again with nothing left to do: that is
the driver's own share, which more workers do not shorten.
"""

import contextlib
import functools
import io
import itertools
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aligners.acoustics import load
from corpus import manifest
from corpus.adapters import ADAPTERS, Intake, MeasuredRow
from corpus.adapters.base import measure_each
from corpus.audio import decode, read_header
from corpus.documents import write_documents
from corpus.keyed import fraction
from corpus.manifest import RejectedRow
from corpus.records import SAMPLE_RATE, Reject, Utterance
from corpus.toml import one_of
from pipelines.build import find_step, make_run
from pipelines.engines.local import LocalEngine
from pipelines.execution.runner import run_stage
from pipelines.execution.task import read_marker
from pipelines.layout import CODEBOOK, TOKENIZER
from pipelines.reports.report import count_outcomes
from pipelines.settings import Settings, replace, write_settings
from pipelines.steps.base import Run, Say, Step, silent
from pipelines.steps.codebook import fit_units, frame_sampling, frame_tasks
from pipelines.steps.cut import cut_utterance
from pipelines.steps.ingest import utterance_folder
from pipelines.steps.speakers import SPEAKERS_STEP, named_rows
from pipelines.steps.split import held_out
from pipelines.steps.transcribe import TRANSCRIBE_STEP, manifest_rows
from pipelines.steps.vocabulary import train_tokenizer

SAMPLE_FROM = 5_000  # rows of the corpus that the sample is taken from
TIMED_APART = ("ingest", "fit units", "card")  # steps that a sample build does not time as the others
REWRITING = ((TRANSCRIBE_STEP, manifest_rows), (SPEAKERS_STEP, named_rows))
"""Steps that rewrite the manifest, each with its rows: the later steps are measured on them. Of what clustering voices
takes a sample shows little: it has few utterances of each recording."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """What something costs per hour of recordings, and once whatever their length. CPU seconds, or bytes."""

    hourly: float
    once: float = 0.0

    def of(self, hours: float) -> float:
        """The cost of `hours` hours.

        >>> Cost(hourly=60.0, once=5.0).of(2)
        125.0
        """
        return self.hourly * hours + self.once


def through(low: tuple[float, float], high: tuple[float, float]) -> Cost:
    """The line through two measurements (hours, cost); a slope or a rest below 0 is noise and counts as 0.

    >>> through((1.0, 15.0), (4.0, 30.0))
    Cost(hourly=5.0, once=10.0)
    >>> through((1.0, 1.0), (4.0, 8.0))
    Cost(hourly=2.0, once=0.0)
    """
    (few, low_cost), (many, high_cost) = low, high
    slope = (high_cost - low_cost) / (many - few)
    rest = low_cost - slope * few
    return Cost(max(slope, 0.0), rest) if rest >= 0 else Cost(high_cost / many)


@dataclass(frozen=True)
class Measured:
    """A corpus and this machine, as far as a sample shows them."""

    hours: float  # of recordings in the sample
    utterances: int  # in the sample
    corpus_hours: float | None  # of the whole corpus; None where it is too long to be read whole
    work: dict[str, Cost]  # step -> CPU seconds of its tasks, which workers share; `once` is per worker
    driver: dict[str, Cost]  # step -> CPU seconds of the driver
    kmeans: float  # CPU seconds of the driver per frame; 0 where a codebook is given
    tokenizer: float  # CPU seconds of the driver per hour; 0 where one is given
    frames: float  # of the encoder, per hour
    storage: dict[str, Cost]  # folder of the build -> bytes; `once` is per part (shards: per shard)
    recordings: float  # bytes of the recordings themselves per hour
    decode: float  # CPU seconds per hour that decoding alone takes; part of every step that decodes
    on_gpu: tuple[str, ...]  # steps whose work was measured on a GPU, in seconds of it
    memory: int  # bytes, peak memory of this process


def measure(settings: Settings, folder: Path, *, minutes: float = 4.0, say: Say = silent) -> Measured:
    """Sample `minutes` of recordings from the corpus, build them in `folder`, and measure what each step costs.

    Raises:
        ValueError: the corpus cannot be read, holds too little, or its settings cannot be built.
    """
    one_of("corpus.adapter", settings.corpus.adapter, tuple(ADAPTERS))
    clock = Clock({"transcribe": settings.transcribe.device}, settings.units.device)
    source = ADAPTERS[settings.corpus.adapter].unmeasured(Path(settings.corpus.source), Intake())
    reading, listed = clock.cpu(lambda: list(itertools.islice(source, SAMPLE_FROM + 1)))
    probing, rows = clock.cpu(lambda: list(measure_each(listed, Intake())))
    whole, rows = len(rows) <= SAMPLE_FROM, rows[:SAMPLE_FROM]
    sample = sample_rows(rows, minutes)
    work = {"ingest": Cost(probing / max(hours_of(rows), 1e-9))}
    if settings.cut.enabled:  # whole recordings are cut; of what they become, as much as without is built
        seconds, pieces = clock.cpu(functools.partial(cut_rows, sample, settings))
        work["cut"] = Cost(seconds / max(hours_of(sample), 1e-9))
        sample, settings = sample_rows(pieces, minutes), replace(settings, "cut", enabled=False)
    if len(sample) < 4:
        raise ValueError(
            f"{settings.corpus.source}: need at least 4 utterances to measure, got {len(sample)}"
        )
    say(
        f"plan: builds {hours_of(sample) * 60:.1f} min of recordings, {len(sample)} utterances, to measure the cost"
    )
    pairs: list[tuple[SampleBuild, SampleBuild]] = []
    for step, rows_of in REWRITING:
        if step.wanted(settings):
            rewrite = functools.partial(SampleBuild.rewrite, step=step, rows_of=rows_of)
            few, many, sample = build_twice(sample, settings, folder / step.name, clock, rewrite)
            pairs.append((few, many))
            settings = replace(settings, step.name, enabled=False)
    with contextlib.redirect_stderr(io.StringIO()):  # the progress of the sample builds
        warm = SampleBuild(folder / "warm", settings, clock)  # loads libraries: not measured
        warm.ingest(sample)
        warm.fit()
        models = SampleBuild(folder / "models", settings, clock)
        models.ingest(sample)
        sampling, kmeans, frames = models.fit()
        tokenizer = models.train_tokenizer()
        pinned = models.pinned()
    few, many, _ = build_twice(sample, pinned, folder, clock, SampleBuild.run)
    pairs.append((few, many))

    def between(of: Callable[[SampleBuild], dict[str, float]]) -> dict[str, Cost]:
        return {
            name: through((less.hours, of(less)[name]), (more.hours, value))
            for less, more in pairs
            for name, value in of(more).items()
        }

    driver, storage = between(lambda build: build.driver), between(SampleBuild.bytes)
    driver["ingest"] = Cost(driver["ingest"].hourly + reading / hours_of(rows), driver["ingest"].once)
    driver["report"] = Cost(driver["report"].hourly, driver["report"].once + many.page)
    tars = len(list(many.folder.glob("shards/*/*.tar")))
    storage["shards"] = Cost(storage["shards"].hourly, storage["shards"].once / tars)
    work |= between(lambda build: build.work) | {"fit units": Cost(sampling / many.hours)}
    return Measured(
        hours=many.hours,
        utterances=len(sample),
        corpus_hours=hours_of(rows) if whole else None,
        work=work,
        driver=driver,
        kmeans=kmeans / max(frames, 1),
        tokenizer=tokenizer / many.hours,
        frames=frames / many.hours,
        storage=storage,
        recordings=recorded_bytes(sample) / many.hours,
        decode=clock.cpu(lambda: decode_all(sample))[0] / many.hours,
        on_gpu=tuple(name for name in work if clock.on_gpu(name)),
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def build_twice(
    rows: list[MeasuredRow],
    settings: Settings,
    folder: Path,
    clock: "Clock",
    make: Callable[["SampleBuild", list[MeasuredRow]], Result],
) -> tuple["SampleBuild", "SampleBuild", Result]:
    """Sample builds of a quarter of the rows and of all, and the result of the second.

    One before them loads libraries and warms up, and is not measured.
    """
    quarter = rows[: -(-len(rows) // 4)]
    first, few, many = (SampleBuild(folder / name, settings, clock) for name in ("first", "few", "many"))
    with contextlib.redirect_stderr(io.StringIO()):  # the progress of the builds
        make(first, quarter)
        make(few, quarter)
        return few, many, make(many, rows)


class Clock:
    """The cost of a step: CPU seconds of this process and those it started, or seconds of the GPU where it uses one."""

    def __init__(self, devices: dict[str, str], device: str):
        self.devices, self.device = devices, device  # of steps that have their own; of the others

    def on_gpu(self, step: str) -> bool:
        """Whether a step's work is done by a GPU here."""
        return self.devices.get(step, self.device) != "cpu" and find_step(step).uses_gpu

    def cpu(self, step: Callable[[], Any]) -> tuple[float, Any]:
        """CPU seconds, which other work on this machine does not affect, and the result of the step."""
        before = cpu_seconds()
        result = step()
        return cpu_seconds() - before, result

    def work(self, name: str, step: Callable[[], Any]) -> float:
        """Seconds of a step by the clock that fits it."""
        if not self.on_gpu(name):
            return self.cpu(step)[0]
        before = time.perf_counter()
        step()
        return time.perf_counter() - before


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and its ended child processes."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class SampleBuild:
    """One build of sampled rows in one part, step by step, with the cost of each."""

    def __init__(self, folder: Path, settings: Settings, clock: Clock):
        self.folder, self.clock = folder, clock
        self.settings = replace(settings, "text", documents=[])
        self.hours = 0.0
        self.work: dict[str, float] = {}
        self.driver: dict[str, float] = {}
        self.page = 0.0  # CPU seconds of the page of the report, which does not grow with the corpus

    def ingest(self, rows: list[MeasuredRow]) -> None:
        """Write the manifest and an empty text table."""
        corpus = self.settings.corpus
        self.driver["ingest"], _ = self.clock.cpu(
            lambda: manifest.write_manifest(
                rows, self.folder / utterance_folder(self.make_run()), part_minutes=1e6, first_minutes=1e6,
                ids=corpus.ids, min_seconds=corpus.min_seconds, max_seconds=corpus.max_seconds,
                transcripts="optional" if corpus.keep_unaligned or self.settings.transcribe.enabled else "required",
            )
        )  # fmt: skip
        write_documents(iter(()), self.folder / "text")
        write_settings(self.folder, self.settings)
        self.hours = hours_of(rows)

    def fit(self) -> tuple[float, float, int]:
        """Seconds of sampling, CPU seconds of k-means, and the frames; 0 where a codebook is given or bundled."""
        if self.settings.units.codebook or self.settings.units.is_bundled:
            return 0.0, 0.0, 0
        run = self.make_run()
        stage, _ = frame_sampling(run)
        tasks = frame_tasks(run, stage)
        sampling = self.clock.work("fit units", lambda: run_stage(stage, self.folder, tasks, run.engine))
        frames = sum((read_marker(self.folder / task.output) or {}).get("frames", 0) for task in tasks)
        fitting, _ = self.clock.cpu(lambda: fit_units(run))
        return sampling, fitting, frames

    def train_tokenizer(self) -> float:
        """CPU seconds of the BPE; 0 where a tokenizer is given."""
        if self.settings.text.tokenizer:
            return 0.0
        run = self.make_run()
        split = held_out(run)
        return self.clock.cpu(lambda: train_tokenizer(run, split))[0]

    def pinned(self) -> Settings:
        """Settings that use the codebook and tokenizer made here."""
        units, text = self.settings.units, self.settings.text
        codebook = units.codebook or ("" if units.is_bundled else str(self.folder / CODEBOOK))
        settings = replace(self.settings, "units", codebook=codebook)
        return replace(settings, "text", tokenizer=text.tokenizer or str(self.folder / TOKENIZER))

    def make_run(self) -> Run:
        """What the steps receive."""
        return make_run(self.folder, self.settings, LocalEngine())

    def run(self, rows: list[MeasuredRow]) -> None:
        """Every step, and again with nothing left to do."""
        self.ingest(rows)
        run = self.make_run()
        for step in run.steps:
            if step.name in TIMED_APART:
                if step.name == "fit units":
                    step.run(run)
                continue
            self.measure(step, run)
        rejects = self.folder / "report" / "rejects.jsonl"
        sums, _ = self.clock.cpu(lambda: count_outcomes(run, rejects))
        self.page, self.driver["report"] = max(self.driver["report"] - sums, 0.0), sums

    def rewrite(
        self, rows: list[MeasuredRow], *, step: Step, rows_of: Callable[[Run], Iterable[MeasuredRow]]
    ) -> list[MeasuredRow]:
        """One step that rewrites the manifest, and again with nothing left to do; the rows that it makes."""
        self.ingest(rows)
        self.driver.clear()  # that of ingest is measured by whole builds
        run = self.make_run()
        self.measure(step, run)
        return list(rows_of(run))

    def measure(self, step: Step, run: Run) -> None:
        """A step, and again with nothing left to do."""
        first = self.clock.work(step.name, functools.partial(step.run, run)) if step.tasks else 0.0
        self.driver[step.name], _ = self.clock.cpu(functools.partial(step.run, run))
        if step.tasks:
            self.work[step.name] = max(first - self.driver[step.name], 0.0)

    def bytes(self) -> dict[str, float]:
        """Bytes of each folder of the build."""
        return self.sizes(self.folder)

    @staticmethod
    def sizes(build: Path) -> dict[str, float]:
        """Bytes of each folder of a build, done markers and all; without what does not grow with the corpus."""
        return {
            folder.name: float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
            for folder in sorted(build.iterdir())
            if folder.is_dir()
            and not folder.name.startswith(".")
            and folder.name not in ("codebooks", "tokenizer", "text", "frames", "report")
        }


def sample_rows(rows: list[MeasuredRow], minutes: float) -> list[MeasuredRow]:
    """Rows of lowest hash, good ones and rejected, until they are `minutes` long; in that order."""
    sample: list[MeasuredRow] = []
    for row in sorted(rows, key=lambda row: fraction(0, "plan", utterance_of(row).id)):
        sample.append(row)
        if hours_of(sample) * 60 >= minutes:
            break
    return sample


def cut_rows(rows: list[MeasuredRow], settings: Settings) -> list[MeasuredRow]:
    """The utterances of recordings, and what is cut away."""
    rules, model, device = settings.cut.rules, settings.cut.model, settings.cut.device
    return [
        piece
        for row in rows
        for piece in (
            [row] if isinstance(row, RejectedRow) else cut_utterance(row, rules, lambda: load(model, device))
        )
    ]


def utterance_of(row: MeasuredRow) -> Utterance:
    """The utterance of a row, rejected or not."""
    return row.utterance if isinstance(row, RejectedRow) else row


def hours_of(rows: list[MeasuredRow]) -> float:
    """Hours of recordings."""
    return sum(utterance_of(row).samples for row in rows) / SAMPLE_RATE / 3600


def decode_all(rows: list[MeasuredRow]) -> None:
    """Decode every recording, and keep none."""
    for row in rows:
        with contextlib.suppress(Reject):
            decode(utterance_of(row))


def recorded_bytes(rows: list[MeasuredRow]) -> float:
    """Bytes of the sampled recordings on disk; of a stretch of a file, its share."""
    total = 0.0
    for row in rows:
        item = utterance_of(row)
        with contextlib.suppress(Reject):
            header = read_header(item.audio)
            total += header.bytes * item.frames / max(header.frames, 1)
    return total
