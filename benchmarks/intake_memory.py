"""Memory of the driver in every step of intake, at two numbers of recordings; each step in a process of its own.

    python -m benchmarks.intake_memory [--rows 30000 120000]

What workers do is left out: their tables are filled with rows of the right columns, and no recording exists. Parts hold
60 recordings of ten seconds. What grows is listed in bytes for each part: the driver holds a task for each.
"""

import argparse
import functools
import hashlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from corpus import files
from pipelines.build import make_run, run_step
from pipelines.engines.local import LocalEngine
from pipelines.execution.task import Stage, Task, run_task
from pipelines.settings import Settings, replace
from pipelines.steps.base import Run, write_results
from tests.helpers.memory import peak_memory

ROWS = (30_000, 120_000)
STEPS = (
    "ingest", "cut", "transcribe", "speakers", "quality", "units", "hashes", "align", "duplicates", "outcomes",
    "preview", "data-card",
)  # fmt: skip
PER_PART = 60  # utterances


def words_of(id: str) -> list[dict[str, Any]]:
    """Words as `transcribe` and `align` write them, other ones for each utterance."""
    texts = [f"w{int(hashlib.md5(f'{id} {n}'.encode()).hexdigest()[:4], 16)}" for n in range(12)]
    return [
        {"text": text, "spoken": text, "start": n / 2, "end": n / 2 + 0.4, "confidence": 0.9}
        for n, text in enumerate(texts)
    ]


FILLED: dict[str, Callable[[str], dict[str, Any]]] = {
    "cut": lambda id: {},
    "transcribe": lambda id: {"words": words_of(id), "speech_share": 0.8, "repetition": 0.0, "words_per_second": 2.0},
    "speakers": lambda id: {"embedding": [0.0625] * 256, "speech": 6.0},
    "quality": lambda id: {"snr": 20.0, "clipping": 0.0, "text_language": "en"},
    "units": lambda id: {"units": [len(one["text"]) * 7 % 500 for one in words_of(id)] * 20},
    "hashes": lambda id: {"hash": hashlib.md5(id.encode()).hexdigest()},
    "align": lambda id: {"words": words_of(id), "quality": "{}"},
}  # fmt: skip
"""Steps of workers -> the columns of an utterance that are not null."""


class FillingEngine(LocalEngine):
    """Fills the tables of the steps that decode, and runs the others."""

    def run(self, stage: Stage, build: Path, tasks: list[Task]) -> None:
        """Do every task."""
        if stage.name not in FILLED:
            super().run(stage, build, tasks)
            return
        for task in tasks:
            run_task(stage, functools.partial(fill, stage), build, task)


def schema_of(stage: Stage) -> pa.Schema:
    """The columns of the table of a step."""
    from pipelines.steps import align, cut, duplicates, speakers, transcribe, units

    known = {
        "cut": cut.CUTS, "transcribe": transcribe.TRANSCRIPTS, "speakers": speakers.EMBEDDINGS, "units": units.UNITS,
        "hashes": duplicates.HASHES, "align": align.WORDS,
    }  # fmt: skip
    return known.get(stage.name) or stage.schema  # type: ignore[attr-defined]


def fill(stage: Stage, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
    """Write one part of a table."""
    schema = schema_of(stage)
    ids = files.read_table(build / task.inputs[0], ["id"])["id"].to_pylist()
    rows = [{"id": id, **FILLED[stage.name](id)} for id in ids]
    (batch,) = pa.Table.from_pylist(rows, schema).to_batches()
    return write_results(temporary, schema, iter([(batch, batch)]), {"hop": 640, "centre": 0})


def write_source(path: Path, rows: int) -> None:
    """A manifest of recordings without text or speaker, each with an address of its own."""
    with path.open("w") as file:
        for number in range(rows):
            line = {"id": f"u{number}", "audio": f"{number}.flac", "language": "en", "licence": "CC0-1.0"}
            file.write(json.dumps(line | {"source": f"https://example.org/{number}"}) + "\n")


def run_one(name: str, run: Run) -> None:
    """One step, or what reads its tables."""
    from pipelines.operations.preview import preview
    from pipelines.reports.data_card import count
    from pipelines.steps.outcomes import make_outcomes

    others: dict[str, Callable[[], Any]] = {
        "outcomes": lambda: make_outcomes(run),
        "preview": lambda: preview(run),
        "data-card": lambda: count(run.build),
    }
    if name in others:
        others[name]()
    else:
        run_step(name, run.build, run.settings, run.engine)


def leave_out_models() -> None:
    """Let headers cost nothing, and the weights of voices be there."""
    from corpus.adapters import base
    from corpus.audio import Header
    from pipelines.steps import speakers

    base.read_header = lambda path: Header(160_000, 16_000, 1, 100_000, "1")  # type: ignore[assignment]
    speakers.identity = lambda: "weights"


def measure_step(name: str, build: Path, settings: Settings, results: Any) -> None:
    """Seconds of CPU and megabytes of one step, in a process of its own."""
    leave_out_models()
    before = time.process_time()
    run_one(name, make_run(build, settings, FillingEngine()))
    results.put((time.process_time() - before, peak_memory()))


def make_settings(rows: int, folder: Path) -> Settings:
    """Settings of a build from `rows` rows, with every step of intake."""
    folder.mkdir(exist_ok=True)
    write_source(folder / "source.jsonl", rows)
    settings = replace(Settings(), "corpus", source=str(folder / "source.jsonl"), keep_unaligned=True)
    enabled: dict[str, dict[str, Any]] = {
        "cut": {}, "transcribe": {"command": "true"}, "speakers": {}, "quality": {"minimum": {"snr": 10.0}},
        "duplicates": {},
    }  # fmt: skip
    for section, more in enabled.items():
        settings = replace(settings, section, enabled=True, **more)
    return settings


def measure(rows: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Step -> (seconds of CPU, megabytes that its process held at most)."""
    settings = make_settings(rows, folder)
    context = multiprocessing.get_context("spawn")  # a fork begins with the memory of this process
    measured = {}
    for name in STEPS:
        results = context.SimpleQueue()
        process = context.Process(target=measure_step, args=(name, folder / "build", settings, results))
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{name} failed")
        measured[name] = results.get()
    return measured


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs=2, default=ROWS)
    few, many = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        small, large = (measure(rows, Path(folder) / str(rows)) for rows in (few, many))
    print(f"{'step':<12}{'MB at':>10}{'MB at':>10}{'bytes a':>10}{'CPU s at':>10}")
    print(f"{'':<12}{few:>10}{many:>10}{'part':>10}{many:>10}")
    for name, (seconds, held) in large.items():
        grown = (held - small[name][1]) * 1e6 / ((many - few) / PER_PART)
        print(f"{name:<12}{small[name][1]:>10.0f}{held:>10.0f}{grown:>10.0f}{seconds:>10.1f}")


if __name__ == "__main__":
    main()
