"""The estimated cost of a build: parts, bytes, hours and money, by arithmetic alone (explained in docs/cloud.md).

    parts    = hours * 60 / (part_minutes + half an utterance), and some more, for the first ones are shorter
    bytes    = hours * bytes per hour + parts (or shards) * bytes per part
    shared   = (hours * seconds per hour + workers * seconds once) / (workers * speed) / 3600
    driver   = (hours * seconds per hour + seconds once) / speed / 3600
    cost     = hours of shared steps * workers * price + hours of the driver * price

A step on GPUs: hours / (gpus * real-time factor); for transcription see `gpu_seconds`.
Behind a store, `shared` is at least the latency of the requests for recordings, which are decoded ahead, plus that of
the requests for tables and done markers.
`pipelines.operations.cost_measure` measures what is per hour and what is once.
"""

import math
from dataclasses import dataclass
from typing import Any

from corpus.manifest import part_length
from pipelines.build import STEPS, find_step
from pipelines.execution.gpus import WORKER_MEMORY
from pipelines.execution.task import GPU_TASKS
from pipelines.operations.cost_measure import Measured
from pipelines.settings import Settings
from pipelines.steps.audio import READS_AT_ONCE

MAX_PARTS = 1_000_000  # planned in under a minute and a gigabyte
PARTS_PER_WORKER = 8  # so that the last ones do not leave most workers idle
PART_SECONDS = (
    300.0  # of a worker's time: what a kill costs at most, and 1000 times what a part costs by itself
)
PART_REQUESTS, RECORDING_REQUESTS = 13, 3
"""Requests one after another to a store: of a step for each part, and for each recording that it decodes (counted on an
S3 server: 332 for 13 parts of 48 recordings, 214 for 4 parts of them, 167 for 6 parts of 24)."""
SHARD_BYTES = 256e6
SHARDS_PER_STREAM = 128  # two for each of the loader's 64 lanes


@dataclass(frozen=True)
class Workers:
    """The machines of a build. Prices are per hour of one worker (one GPU machine), in any currency."""

    workers: int = 1  # processes, one core each
    speed: float = 1.0  # of a worker core relative to this machine
    price: float = 0.0
    gpus: int = 0  # machines with one GPU each, which make units (and pitch and style)
    real_time: float = 0.0  # hours of recordings that one GPU encodes in an hour; 0: as measured here
    gpu_price: float = 0.0
    gpu_cores: int = 4  # of a machine with a GPU
    latency: float = 0.0  # seconds until a store answers a request

    def __post_init__(self) -> None:
        for name, value, minimum in (
            ("workers", self.workers, 1),
            ("gpus", self.gpus, 0),
            ("gpu_cores", self.gpu_cores, 1),
        ):
            if value < minimum:
                raise ValueError(f"plan.{name}: need at least {minimum}, got {value}")
        if self.speed <= 0 or min(self.price, self.gpu_price, self.real_time, self.latency) < 0:
            raise ValueError("plan: need speed > 0, and no price, latency or real-time factor below 0")


def predict(measured: Measured, settings: Settings, hours: float, machines: Workers) -> dict[str, Any]:
    """Estimate the cost of `hours` of recordings like those measured, and advise on settings.

    Returns:
        {"hours", "parts", "shards", "advised": {"parts", "shards"} with the settings advised, "storage": {folder:
        bytes}, "steps": [{"step", "who", "hours", "cost"}, ...], "bytes", "total_hours", "cost", "settings": {name:
        value}, "notes": [...]}.
    """
    if hours <= 0:
        raise ValueError(f"plan.hours: need more than 0, got {hours}")
    if machines.gpus and not (machines.real_time or "units" in measured.on_gpu):
        raise ValueError(
            "plan.gpus: need --gpu-real-time, the hours that one GPU encodes in an hour: none was measured here"
        )
    utterances = hours * measured.utterances / measured.hours
    count = parts(hours, utterances, settings.corpus.part_minutes)
    shards = count_shards(settings, utterances, settings.shards.samples)
    advice = advise(measured, settings, hours, utterances, machines)
    pieces = {name: shards if name == "shards" else count for name in measured.storage}
    storage = {
        name: cost.hourly * hours + cost.once * pieces[name] for name, cost in measured.storage.items()
    }
    rows = [
        *driver_rows(measured, settings, hours, machines),
        *shared_rows(measured, settings, hours, machines, count / hours, utterances / hours),
    ]
    rows.sort(key=lambda row: order_of(row["step"]))
    return {
        "hours": hours,
        "utterances": round(utterances),
        "parts": count,
        "shards": shards,
        "advised": {
            "parts": parts(hours, utterances, advice["corpus.part_minutes"]),
            "shards": count_shards(settings, utterances, advice["shards.samples"]),
        },
        "storage": storage,
        "bytes": sum(storage.values()),
        "recordings_bytes": measured.recordings * hours,
        "steps": rows,
        "total_hours": sum(row["hours"] for row in rows),
        "cost": sum(row["cost"] for row in rows),
        "settings": advice,
        "notes": notes(measured, rows, machines),
    }


def order_of(step: str) -> tuple[int, str]:
    """Rows in the order of the build: each step, then what only the driver does for it."""
    base = {"k-means": "fit units", "tokenizer": "interleave"}.get(step, step.removesuffix(" (driver)"))
    return [known.name for known in STEPS].index(base), step


def shares(settings: Settings) -> tuple[float, ...]:
    """Of the two splits."""
    return (1 - settings.shards.valid, settings.shards.valid)


def count_shards(settings: Settings, utterances: float, samples: int) -> int:
    """Of three streams."""
    return sum(math.ceil(share * utterances / samples) for share in shares(settings)) * 3


def parts(hours: float, utterances: float, part_minutes: float) -> int:
    """A part ends with the utterance that makes it long enough: half of one beyond, on average.

    >>> parts(hours=0.5, utterances=180, part_minutes=10.0)  # utterances of 10 s
    10
    >>> parts(hours=100.0, utterances=36_000, part_minutes=10.0)
    609
    """
    left, beyond, number = hours * 60, hours * 60 / utterances / 2, 0
    while left > 0 and (length := part_length(number, part_minutes)) < part_minutes:
        left, number = left - length - beyond, number + 1
    return max(1, number + math.ceil(max(left, 0.0) / (part_minutes + beyond)))


def shared_rows(
    measured: Measured, settings: Settings, hours: float, machines: Workers, parts: float, recordings: float
) -> list[dict[str, Any]]:
    """Steps that workers share; of `parts` and `recordings` per hour."""
    rows = []
    unread = True  # steps that decode share one decode
    for name, cost in measured.work.items():
        length = min(hours, settings.units.fit_hours) if name == "fit units" else hours
        if not cost.of(length):
            continue
        reads = unread and find_step(name).decodes
        reading = reads * length * recordings * RECORDING_REQUESTS * machines.latency / READS_AT_ONCE
        tables = length * parts * PART_REQUESTS * machines.latency
        unread = unread and not reads
        if (seconds := gpu_seconds(name, measured, settings, machines)) is not None:
            took = max(length * seconds, (reading + tables) / GPU_TASKS) / machines.gpus / 3600
            rows.append(row(name, f"{machines.gpus} GPUs", took, took * machines.gpus * machines.gpu_price))
        else:
            seconds = (cost.hourly * length + cost.once * machines.workers) / machines.speed
            took = (max(seconds, reading) + tables) / machines.workers / 3600
            rows.append(
                row(name, f"{machines.workers} workers", took, took * machines.workers * machines.price)
            )
    return rows


def gpu_seconds(step: str, measured: Measured, settings: Settings, machines: Workers) -> float | None:
    """Seconds of a GPU per hour of recordings; None where workers without one do the step.

    A recogniser that was measured on a CPU is taken to be as many times faster on a GPU as the encoder is.
    """
    hourly = measured.work[step].hourly
    if not machines.gpus or not find_step(step).uses_gpu:
        return None
    if step == "transcribe" and step not in measured.on_gpu:
        if settings.transcribe.has_command or "units" in measured.on_gpu:
            return None
        return hourly / measured.work["units"].hourly * 3600 / machines.real_time
    return 3600 / machines.real_time if machines.real_time and step != "transcribe" else hourly


def driver_rows(
    measured: Measured, settings: Settings, hours: float, machines: Workers
) -> list[dict[str, Any]]:
    """Steps, and shares of steps, that the driver does, however many workers there are."""
    frames = min(settings.units.fit_frames, measured.frames * min(hours, settings.units.fit_hours))
    names = {step.name: step.name for step in STEPS if step.once and step.name not in measured.work}
    seconds = {
        "k-means": measured.kmeans * frames,
        "tokenizer": measured.tokenizer * hours,
        **{names.get(name, f"{name} (driver)"): cost.of(hours) for name, cost in measured.driver.items()},
    }
    took = {name: value / machines.speed / 3600 for name, value in seconds.items() if value > 0}
    return [row(name, "driver", value, value * machines.price) for name, value in took.items()]


def row(step: str, who: str, hours: float, cost: float) -> dict[str, Any]:
    """One line of the estimate."""
    return {"step": step, "who": who, "hours": hours, "cost": cost}


def advise(
    measured: Measured, settings: Settings, hours: float, utterances: float, machines: Workers
) -> dict[str, Any]:
    """Settings that fit the size: parts neither too many nor too few, shards neither tiny nor huge, enough memory."""
    slowest = (
        max(cost.hourly for name, cost in measured.work.items()) / machines.speed / 60
    )  # seconds per minute
    minutes = PART_SECONDS / max(slowest, 1e-9)
    minutes = min(minutes, hours * 60 / (PARTS_PER_WORKER * (machines.workers + machines.gpus)))
    minutes = max(minutes, hours * 60 / MAX_PARTS, 1.0)
    example = measured.storage["shards"].hourly * hours / utterances / 3  # three streams
    samples = min(SHARD_BYTES / max(example, 1.0), utterances / SHARDS_PER_STREAM)
    gigabytes = math.ceil(1.5 * measured.memory / 1e9)
    advice: dict[str, Any] = {
        "corpus.part_minutes": two_digits(minutes),
        "shards.samples": max(100, int(two_digits(samples))),
        "workers": machines.workers,
        "memory per worker (GB)": gigabytes,
    }
    if machines.gpus:
        advice |= {"units.device": "cuda", "--gpu_min_ram": f"{gigabytes}GB"}
        advice["GPU memory per worker (GB)"] = WORKER_MEMORY >> 30
        if "transcribe" in measured.work and gpu_seconds("transcribe", measured, settings, machines):
            advice["transcribe.device"] = "cuda"
        advice["--decode_apart"] = decoders(measured, machines) > machines.gpu_cores
    return advice


def decoders(measured: Measured, machines: Workers) -> float:
    """Cores that decode as fast as one GPU encodes: with fewer, the GPU waits unless other machines decode."""
    return (
        (machines.real_time or 3600 / measured.work["units"].hourly) * measured.decode / machines.speed / 3600
    )


def notes(measured: Measured, rows: list[dict[str, Any]], machines: Workers) -> list[str]:
    """Conclusions that a reader could overlook."""
    lines = []
    driver = sum(row["hours"] for row in rows if row["who"] == "driver")
    total = sum(row["hours"] for row in rows)
    if driver > 0.2 * total:
        lines.append(f"{driver / total:.0%} of the time is the driver's own: more workers do not shorten it")
    if machines.workers > 1 and total and rows:
        slowest = max(rows, key=lambda row: row["hours"])
        lines.append(f"{slowest['step']} takes longest, {slowest['hours'] / total:.0%} of the time")
    return lines


def two_digits(value: float) -> float:
    """Rounded to two digits.

    >>> two_digits(78.34), two_digits(0.1234), two_digits(3456.0)
    (78.0, 0.12, 3500.0)
    """
    return round(value, 1 - math.floor(math.log10(abs(value)))) if value else 0.0


def lines(estimate: dict[str, Any]) -> list[str]:
    """The estimate as text."""
    advised = estimate["advised"]
    return [
        f"{estimate['hours']:,.6g} h of recordings ({readable(estimate['recordings_bytes'])}), about "
        f"{estimate['utterances']:,} utterances: {estimate['parts']:,} parts, {estimate['shards']:,} shards; "
        f"with the settings to use {advised['parts']:,} and {advised['shards']:,}",
        "",
        f"{'storage':<22}{'bytes':>12}",
        *(f"  {name:<20}{readable(size):>12}" for name, size in estimate["storage"].items()),
        f"  {'total':<20}{readable(estimate['bytes']):>12}",
        "",
        f"{'step':<22}{'who':>14}{'hours':>12}{'cost':>12}",
        *(
            f"  {row['step']:<20}{row['who']:>14}{row['hours']:>12,.4g}{row['cost']:>12,.2f}"
            for row in estimate["steps"]
        ),
        f"  {'total':<20}{'':>14}{estimate['total_hours']:>12,.4g}{estimate['cost']:>12,.2f}",
        "",
        "settings to use",
        *(f"  {name} = {value}" for name, value in estimate["settings"].items()),
        *(f"note: {line}" for line in estimate["notes"]),
    ]


def readable(size: float) -> str:
    """Bytes in the unit that leaves few digits.

    >>> readable(532), readable(1_234_567), readable(9.87e12)
    ('532 B', '1.23 MB', '9.87 TB')
    """
    power = min(5, int(math.log10(max(size, 1.0)) // 3))
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"
