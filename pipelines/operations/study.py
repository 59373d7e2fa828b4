"""The study: synthetic corpora through the whole pipeline, models of several mixtures, one table.

`run_study` repeats only what is missing or was requested differently, so an interrupted study resumes.
"""

import hashlib
import json
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from corpus.synthetic.grammar import TOPICS
from corpus.synthetic.stories import speak_miniature
from corpus.toml import fill, one_of, read_toml
from lm.evaluation import study as studies
from lm.evaluation.datasets.synthetic import make_testsets
from lm.evaluation.evaluate import write_results
from lm.evaluation.scaling import Curve, fit_curve, plot_curves
from lm.evaluation.study import Job, Row
from lm.evaluation.testset import TestSet, tokenize_recordings
from lm.training.train import TrainSettings
from pipelines import build as pipeline
from pipelines import settings as toml
from pipelines.engines.registry import make_engine
from pipelines.reports.codebook_card import write_card
from pipelines.tokenize import describe_tokenizer, tokenize_files

Say = Callable[[str], None]


@dataclass(frozen=True)
class CorpusSettings:
    """[corpora.NAME]: a synthetic corpus, see `corpus.synthetic.stories.speak_miniature`."""

    transcribed: int  # recordings with a transcript
    untranscribed: int  # recordings without one
    text_only: int  # stories that are not spoken
    voices: int
    seed: int
    kind: str = "topics"
    topics: int = len(TOPICS)
    synthesiser: str = "espeak"  # or "hibari", a neural voice


@dataclass(frozen=True)
class TestSettings:
    """[test]: the synthetic test sets, see `lm.evaluation.datasets.synthetic.make_testsets`."""

    items: int = 100
    seed: int = 1
    topics: int = len(TOPICS)


@dataclass(frozen=True)
class Study:
    """The content of config/study/*.toml."""

    test: TestSettings
    corpora: dict[str, CorpusSettings]
    builds: dict[str, dict[str, Any]]
    train: dict[str, Any]
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...] = ()
    pipeline: dict[str, dict[str, Any]] = field(default_factory=dict)  # settings that all builds share

    def __post_init__(self) -> None:
        for name, build in self.builds.items():
            one_of(f"builds.{name}.corpus", build.get("corpus", ""), tuple(self.corpora))
        for row in self.rows:
            one_of(f"row {row.name!r}: build", row.build, tuple(self.builds))
            run = {"build": "", "output": "", "mixture": row.mixture, "strategy": row.strategy}
            fill(TrainSettings, {**self.train, **row.train}, "train", run)
            if row.start_from:
                first = [one for one in self.rows if not one.start_from and one.build == row.build]
                one_of(f"row {row.name!r}: start_from", row.start_from, tuple(one.name for one in first))
                if next(one for one in first if one.name == row.start_from).seeds < row.seeds:
                    raise ValueError(
                        f"row {row.name!r}: need at most the seeds of {row.start_from!r}, got {row.seeds}"
                    )
        for curve in self.curves:
            for name in curve.rows:
                one_of(f"curve {curve.name!r}: rows", name, tuple(row.name for row in self.rows))

    def build_settings(self, name: str, folder: Path, manifest: Path) -> toml.Settings:
        """A build's settings: its own values over the shared ones, its source, and its documents."""
        own = {section: values for section, values in self.builds[name].items() if section != "corpus"}
        merged = {
            section: {**self.pipeline.get(section, {}), **own.get(section, {})}
            for section in {**self.pipeline, **own}
        }
        settings = fill(toml.Settings, merged)
        settings = toml.replace(settings, "corpus", source=str(manifest))
        settings = toml.replace(settings, "text", documents=[str(manifest.parent / "text.txt")])
        return replace(settings, build=str(folder))


def read_study(path: Path) -> Study:
    """Read a study's config; unknown names are refused."""
    return read_toml(path, Study)


def run_study(
    folder: Path, study: Study, *, workers: int = 2, only: Sequence[str] = (), say: Say = lambda line: None
) -> dict[str, Any]:
    """Synthesise the corpora, build them, train and score every row, and write study.json, study.md and study.png.

    Args:
        only: names of rows; empty: all of them.

    Returns:
        The content of study.json, and `page`, the text of study.md.
    """
    started = time.monotonic()
    needed = {row.start_from for row in study.rows if row.name in only}
    rows = [row for row in study.rows if not only or row.name in only or row.name in needed]
    if not rows:
        raise ValueError(f"rows: need some of {[row.name for row in study.rows]}, got {list(only)}")
    names = list(dict.fromkeys(row.build for row in rows))
    manifests = {
        name: synthesise_corpus(folder, name, study.corpora[name], say)
        for name in dict.fromkeys(study.builds[name]["corpus"] for name in names)
    }
    trained = frozenset().union(*(corpus_texts(manifest) for manifest in manifests.values()))
    wanted = list(dict.fromkeys(name for row in rows for name in row.testsets))
    testsets = make_testsets(folder / "testsets", names=wanted, avoid=trained, say=say, **asdict(study.test))
    facts, jobs = {}, list[Job]()
    for name in names:
        build = folder / "builds" / name
        run_build(
            build, study.build_settings(name, build, manifests[study.builds[name]["corpus"]]), workers, say
        )
        own = [row for row in rows if row.build == name]
        used = [testsets[one] for one in dict.fromkeys(testset for row in own for testset in row.testsets)]
        units, facts[name] = tokenize_testsets(folder, build, used, workers, say)
        facts[name] |= unit_facts(build)
        for row in own:
            runs_of = folder / "runs"
            jobs += [
                Job(
                    row, seed, str(build), str(runs_of / run_name(row.name, seed)), study.train,
                    tuple(testsets[one] for one in row.testsets), {one: units[one] for one in row.testsets},
                    str(runs_of / run_name(row.start_from, seed)) if row.start_from else "",
                )
                for seed in range(row.seeds)
            ]  # fmt: skip
    jobs.sort(key=lambda job: -job.seed)
    say(f"study: data after {(time.monotonic() - started) / 60:.1f} minutes; {len(jobs)} runs")
    runs = [
        run
        for wave in (False, True)  # those that others continue from come first
        for run in run_jobs([job for job in jobs if bool(job.start_from) == wave], workers, say)
    ]
    order = {row.name: number for number, row in enumerate(rows)}
    runs.sort(key=lambda run: (order[run["row"]], run["seed"]))
    table, stories = studies.by_row(runs), story_texts(testsets.values())
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = {
        "config": json.loads(json.dumps(asdict(study))),
        "builds": facts,
        "test": {"stories": len(stories), "of them trained on": sum(text in trained for text in stories)},
        "minutes": (time.monotonic() - started) / 60,
        "cpu_minutes": (time.process_time() + children.ru_utime + children.ru_stime) / 60,
        "table": table,
        "verdict": studies.verdict(table),
        "runs": runs,
        "curves": [
            fit_curve(curve, runs) for curve in study.curves if set(curve.rows) <= {row.name for row in rows}
        ],
    }
    if results["curves"]:
        plot_curves(results["curves"], folder / "scaling.png")
    write_results(folder / "study.json", results)
    studies.plot_study(table, folder / "study.png", "paired accuracy of twin items")
    page = studies.to_markdown(results)
    (folder / "study.md").write_text(page, encoding="utf-8")
    return results | {"page": page}


def run_name(row: str, seed: int) -> str:
    """The folder of a run."""
    return f"{row.replace(' ', '-')}-{seed}"


def synthesise_corpus(folder: Path, name: str, corpus: CorpusSettings, say: Say) -> Path:
    """The manifest of a corpus, synthesised unless it exists with the same settings."""
    path = folder / "speech" / name
    note = path / "settings.json"
    if note.is_file() and json.loads(note.read_text()) == asdict(corpus):
        return path / "manifest.jsonl"
    shutil.rmtree(path, ignore_errors=True)
    say(f"study: synthesising {corpus.transcribed + corpus.untranscribed} recordings of {name}")
    manifest = speak_miniature(path, **asdict(corpus))
    note.write_text(json.dumps(asdict(corpus)))
    return manifest


def corpus_texts(manifest: Path) -> frozenset[str]:
    """All stories of a corpus, spoken or written."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    documents = (manifest.parent / "text.txt").read_text().splitlines()
    return frozenset([*documents, *(row.get("text") or row["spoken_text"] for row in rows)])


def story_texts(testsets: Iterable[TestSet]) -> list[str]:
    """Every right story, context and ending, of the test sets that offer choices."""
    return [
        " ".join(part.text or "" for part in (*item.context, *item.choices[item.right or 0]))
        for testset in testsets
        for item in testset.items
        if item.choices and item.context
    ]


def run_build(folder: Path, settings: toml.Settings, workers: int, say: Say) -> None:
    """A corpus through the pipeline, as `wordweave build` does it."""
    engine = make_engine("beam" if workers > 1 else "local", workers, {}, ())
    pipeline.build(folder, settings, engine, say)


def tokenize_testsets(
    folder: Path, build: Path, testsets: Sequence[TestSet], workers: int, say: Say
) -> tuple[dict[str, dict[str, str]], dict[str, Any]]:
    """Unit names of the test sets' recordings by a build's tokenizers, cached, and what the tokenizers are."""
    facts = describe_tokenizer(build)
    identity = json.dumps([facts, [testset.hash for testset in testsets]], sort_keys=True)
    key = hashlib.sha256(identity.encode()).hexdigest()
    path = folder / "tokens" / f"{build.name}.json"
    cached = json.loads(path.read_text()) if path.is_file() else {}
    if cached.get("key") != key:
        recordings = [testset.folder / name for testset in testsets for name in testset.recordings]
        say(f"study: tokenizing {len(recordings)} test recordings as {build.name} does")
        tokens = tokenize_files(build, recordings, workers)

        def tokenize(recording: Path) -> str:
            result = tokens[recording]
            if isinstance(result, ValueError):
                raise result
            return result

        cached = {
            "key": key,
            "units": {
                testset.name: tokenize_recordings(testset, testset.items, tokenize) for testset in testsets
            },
        }
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(cached))
    return cached["units"], facts


def unit_facts(build: Path) -> dict[str, Any]:
    """What decides whether the effect is visible at this size: units in use and per second, entropy given the phone."""
    path = build / "codebooks" / "units.json"
    card = (
        json.loads(path.read_text())
        if path.is_file()
        else write_card(build, toml.read_settings(build), phones=100)
    )
    units, phones = card["units"], card["phones"]
    measures = ("used", "runs_per_second", "entropy_deduplicated", "bitrate_deduplicated")
    of_phones = ("pnmi", "xpnmi", "phone_purity", "unit_nats_given_phone")
    hours = json.loads((build / "report" / "report.json").read_bytes())
    return (
        {name: units[name] for name in measures}
        | {name: phones[name] for name in of_phones if name in phones}
        | {"hours_in": hours["in"]["hours"], "hours_rejected": hours["rejected"]["hours"]}
    )


def run_jobs(jobs: Sequence[Job], workers: int, say: Say) -> list[dict[str, Any]]:
    """All runs, `workers` at a time, each on one thread in its own process."""
    runs = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(studies.train_and_score, job): job for job in jobs}
        for done in as_completed(waiting):
            job, run = waiting[done], done.result()
            runs.append(run)
            scores = [
                f"{row['testset']} {row['direction']} {studies.measures_of(row)[name][0]:.0f}"
                for row in run["rows"]
                for name in ("paired", "kept")
                if name in studies.measures_of(row)
            ]
            say(f"study: {job.row.name}, seed {job.seed}: {run['minutes']:.1f} minutes; {', '.join(scores)}")
    return runs
