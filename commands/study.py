"""The study: synthetic corpora through the real pipeline, models of several mixtures, one table."""

import dataclasses
import hashlib
import json
import multiprocessing
import resource
import shutil
import time
import tomllib
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.cli import FILE, FOLDER, cli, command, say

if TYPE_CHECKING:
    from lm.evaluation.study import Job, Row
    from lm.evaluation.testset import Pack
    from pipelines.settings import Settings


@dataclass(frozen=True)
class Study:
    """What config/study/*.toml says."""

    test: dict[str, Any]
    corpora: dict[str, dict[str, Any]]
    builds: dict[str, dict[str, Any]]
    train: dict[str, Any]
    rows: tuple["Row", ...]


def read_study(path: Path) -> Study:
    """Read a study's config; unknown names are refused."""
    from lm.evaluation.study import Row
    from lm.training.train import TrainSettings

    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
        rows = tuple(
            Row(**{**row, "packs": tuple(row.get("packs", ("stories",)))}) for row in said.pop("rows")
        )
        test, corpora, train = said.pop("test"), said.pop("corpora"), said.pop("train")
        common, builds = said.pop("pipeline", {}), said.pop("builds")
        if said:
            raise ValueError(f"has no {sorted(said)}")
        merged = {
            name: {"corpus": build.pop("corpus"), "settings": merge(common, build)}
            for name, build in builds.items()
        }
        for name, build in merged.items():
            if build["corpus"] not in corpora:
                raise ValueError(f"builds.{name}.corpus: one of {sorted(corpora)}, got {build['corpus']!r}")
        for row in rows:
            if row.build not in merged:
                raise ValueError(f"row {row.name!r}: build: one of {sorted(merged)}, got {row.build!r}")
            TrainSettings(build="", output="", mixture=row.mixture, strategy=row.strategy, **train)
    except KeyError as error:
        raise click.UsageError(f"{path}: lacks {error}") from error
    except (OSError, TypeError, ValueError) as error:
        raise click.UsageError(f"{path}: {error}") from error
    return Study(test, corpora, merged, train, rows)


def merge(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections of settings, a build's own values over the common ones."""
    return {name: {**common.get(name, {}), **own.get(name, {})} for name in {**common, **own}}


@command(cli)
@click.argument("folder", type=FOLDER)
@click.option("--config", type=FILE, required=True, help="See config/study/quick.toml.")
@click.option("--workers", type=click.IntRange(min=1), default=2, help="Processes.", show_default=True)
@click.option("--only", multiple=True, metavar="ROW", help="Only these rows.")
def study(folder: Path, config: Path, workers: int, only: tuple[str, ...]) -> dict[str, Any]:
    """The paper's claim in miniature.

    Speaks corpora, runs them through the pipeline, trains a model for every row of CONFIG and scores it on held-out
    stories: table, JSON and picture in FOLDER. What is finished is kept: run it again after a crash.
    """
    from lm.evaluation import study as studies
    from lm.evaluation.evaluate import write_results

    started = time.monotonic()
    asked = read_study(config)
    rows = [row for row in asked.rows if not only or row.name in only]
    if not rows:
        raise click.UsageError(f"--only: some of {[row.name for row in asked.rows]}, got {list(only)}")
    names = list(dict.fromkeys(row.build for row in rows))
    sources = {
        name: spoken(folder, name, asked.corpora[name])
        for name in {asked.builds[n]["corpus"]: 0 for n in names}
    }
    trained = frozenset().union(*(texts(source) for source in sources.values()))
    packs = made_packs(folder, asked, rows, trained)
    facts = {}
    jobs: list[Job] = []
    for name in names:
        build = built(folder, name, asked, sources[asked.builds[name]["corpus"]], workers)
        own = [row for row in rows if row.build == name]
        wanted = list(dict.fromkeys(pack for row in own for pack in row.packs))
        heard, facts[name] = listened(folder, build, [packs[one] for one in wanted], workers)
        facts[name] |= described_units(build)
        for row in own:
            jobs += [
                studies.Job(
                    row, seed, str(build), str(folder / "runs" / f"{row.name.replace(' ', '-')}-{seed}"), asked.train,
                    tuple(packs[one] for one in row.packs), {one: heard[one] for one in row.packs},
                )
                for seed in range(row.seeds)
            ]  # fmt: skip
    jobs.sort(key=lambda job: -job.seed)
    say(f"study: data after {(time.monotonic() - started) / 60:.1f} minutes; {len(jobs)} runs")
    runs = run_jobs(jobs, workers)
    order = {row.name: number for number, row in enumerate(rows)}
    runs.sort(key=lambda run: (order[run["row"]], run["seed"]))
    table = studies.gather(runs)
    repeats = sum(text in trained for text in test_texts(packs))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = {
        "config": json.loads(json.dumps(dataclasses.asdict(asked))),
        "builds": facts,
        "test": {"stories": len(test_texts(packs)), "of them trained on": repeats},
        "minutes": (time.monotonic() - started) / 60,
        "cpu_minutes": (time.process_time() + used.ru_utime + used.ru_stime) / 60,
        "table": table,
        "verdict": studies.verdict(table),
        "runs": runs,
    }
    write_results(folder / "study.json", results)
    studies.draw(table, folder / "study.png", "contrast over twin items")
    page = studies.page(results)
    (folder / "study.md").write_text(page, encoding="utf-8")
    click.echo(page)
    return {"table": str(folder / "study.md"), "picture": str(folder / "study.png"), "runs": len(runs),
            "minutes": results["minutes"]}  # fmt: skip


def spoken(folder: Path, name: str, corpus: Mapping[str, Any]) -> Path:
    """The manifest of a corpus, spoken unless it stands as asked."""
    from corpus.synthetic.stories import speak_miniature

    place = folder / "speech" / name
    note = place / "asked.json"
    if note.is_file() and json.loads(note.read_text()) == dict(corpus):
        return place / "manifest.jsonl"
    shutil.rmtree(place, ignore_errors=True)
    say(f"study: speaking {corpus['told'] + corpus['heard']} recordings of {name}")
    manifest = speak_miniature(place, **corpus)
    note.write_text(json.dumps(dict(corpus)))
    return manifest


def texts(manifest: Path) -> frozenset[str]:
    """All that is said or written in a corpus."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    written = (manifest.parent / "text.txt").read_text().splitlines()
    return frozenset([*written, *(row.get("text") or row["said"] for row in rows)])


def made_packs(folder: Path, asked: Study, rows: list["Row"], trained: frozenset[str]) -> "dict[str, Pack]":
    """The packs that rows ask for, without a story that was trained on."""
    from lm.evaluation.datasets.synthetic import make_packs

    names = list(dict.fromkeys(name for row in rows for name in row.packs))
    return make_packs(folder / "packs", names=names, avoid=trained, say=say, **asked.test)


def test_texts(packs: "Mapping[str, Pack]") -> list[str]:
    """Every right story of the packs to choose from, context and ending."""
    return [
        " ".join(part.text or "" for part in (*item.context, *item.choices[item.right or 0]))
        for pack in packs.values()
        for item in pack.items
        if item.choices and item.context
    ]


def built(folder: Path, name: str, asked: Study, manifest: Path, workers: int) -> Path:
    """A corpus through the pipeline, as `wordweave build` does it."""
    from pipelines import build as steps
    from pipelines.execution.runner import Engine, alone
    from pipelines.reports import report as reports
    from pipelines.steps import prosody as expressive

    build = folder / "builds" / name
    settings = pipeline_settings(asked.builds[name]["settings"], build, manifest)
    engine = Engine("beam" if workers > 1 else "local", workers)
    with alone(build):
        steps.ingest(build, settings, say=say)
        steps.ready_codebook(build, settings, engine, say=say)
        steps.encode(build, settings, engine)
        for table in steps.expressive_tables(settings):
            getattr(expressive, table)(build, settings, engine)
        steps.align(build, settings, engine)
        steps.interleave(build, settings, engine, say=say)
        reports.report(build)
    return build


def pipeline_settings(said: Mapping[str, Any], build: Path, manifest: Path) -> "Settings":
    """A build's settings, with its source, and its documents in place."""
    from pipelines import settings

    made = settings.fill(settings.Settings, dict(said), "pipeline")
    made = settings.replace(made, "corpus", source=str(manifest))
    made = settings.replace(made, "text", documents=[str(manifest.parent / "text.txt")])
    return dataclasses.replace(made, build=str(build))


def listened(
    folder: Path, build: Path, packs: "list[Pack]", workers: int
) -> tuple[dict[str, dict[str, str]], dict[str, Any]]:
    """Unit names of the packs' recordings, heard once with a build's tokenizers."""
    from lm.evaluation.testset import hear
    from pipelines.tokenize import described, listen_all

    facts = described(build)
    asked = hashlib.sha256(
        json.dumps([facts, [pack.hash for pack in packs]], sort_keys=True).encode()
    ).hexdigest()
    place = folder / "heard" / f"{build.name}.json"
    held = json.loads(place.read_text()) if place.is_file() else {}
    if held.get("key") != asked:
        recordings = [pack.folder / name for pack in packs for name in pack.recordings]
        say(f"study: hearing {len(recordings)} test recordings as {build.name} does")
        said = listen_all(build, recordings, workers)

        def listen(recording: Path) -> str:
            one = said[recording]
            if isinstance(one, ValueError):
                raise one
            return one

        held = {"key": asked, "heard": {pack.name: hear(pack, pack.items, listen) for pack in packs}}
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(held))
    return held["heard"], facts


def described_units(build: Path) -> dict[str, Any]:
    """What decides whether the effect can be seen at this size: units a word, units in use, entropy given the phone."""
    from pipelines.reports.codebook_card import write_card
    from pipelines.reports.report import report

    place = build / "codebooks" / "units.json"
    said = json.loads(place.read_text()) if place.is_file() else write_card(build, phones=100)
    units, phones = said["units"], said["phones"]
    found = {
        name: units[name]
        for name in ("used", "runs_per_second", "entropy_deduplicated", "bitrate_deduplicated")
    }
    found |= {
        name: phones[name]
        for name in ("pnmi", "xpnmi", "phone_purity", "unit_nats_given_phone")
        if name in phones
    }
    hours = report(build)
    return found | {"hours_in": hours["in"]["hours"], "hours_rejected": hours["rejected"]["hours"]}


def run_jobs(jobs: "list[Job]", workers: int) -> list[dict[str, Any]]:
    """All runs, so many at a time, each on one thread in a process of its own."""
    from lm.evaluation.study import measured, train_and_score

    runs = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(train_and_score, job): job for job in jobs}
        for done in as_completed(waiting):
            job, run = waiting[done], done.result()
            runs.append(run)
            said = [
                f"{row['pack']} {row['direction']} {measured(row)[name][0]:.0f}"
                for row in run["rows"]
                for name in ("contrast", "kept")
                if name in measured(row)
            ]
            say(f"study: {job.row.name}, seed {job.seed}: {run['minutes']:.1f} minutes; {', '.join(said)}")
    return runs
