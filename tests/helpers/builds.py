"""Small whole builds: their settings, and what is compared of them."""

import hashlib
import sys
from pathlib import Path

from corpus.toml import read_toml
from pipelines import settings
from pipelines.build import make_run, run_step, wanted_steps
from pipelines.engines.local import LocalEngine
from pipelines.execution.engine import Engine
from pipelines.steps import codebook

ROOT = Path(__file__).resolve().parents[2]
LOCAL = LocalEngine()


def build_settings(manifest: Path, **sections: dict) -> settings.Settings:
    """Settings of a small build: parts of one minute, 400 text tokens, pocketsphinx, mfcc units and their codebook."""
    wanted = read_toml(ROOT / "config" / "demo.toml", settings.Settings)
    wanted = settings.replace(wanted, "units", encoder="mfcc")
    aligner = {"minimum_score": -42.0, "second_opinion": False}  # for the voices of espeak-ng
    wanted = settings.replace(wanted, "align", backend="pocketsphinx", options=aligner)
    wanted = settings.replace(wanted, "corpus", source=str(manifest), part_minutes=1.0)
    wanted = settings.replace(wanted, "text", size=400, documents=[])
    for section, changes in sections.items():
        wanted = settings.replace(wanted, section, **changes)
    return wanted


def build_command(config: Path, folder: Path, *options: str) -> list[str]:
    """The command line of `wordweave build`, in a process of its own."""
    return [sys.executable, "-m", "wordweave", "build", str(config), "--build", str(folder), *options]


def run_build(folder: Path, wanted: settings.Settings, engine: Engine = LOCAL) -> dict:
    """Every step but the card, each as its own command runs it; the report."""
    results = {
        step.name: run_step(step.name, folder, wanted, engine)
        for step in wanted_steps(wanted)
        if step.name != "card"
    }
    return results["report"]


def fit_units(folder: Path, wanted: settings.Settings, engine: Engine = LOCAL, **more) -> Path:
    """The step `fit units` as `wordweave fit units` runs it."""
    return codebook.fit_units(make_run(folder, wanted, engine, **more))


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of everything another program reads: shards, vocabulary, index, tables, codebook, report."""
    kinds = (
        "*.tar",
        "vocabulary.json",
        "tokenizer.json",
        "index.json",
        "*.parquet",
        "*.safetensors",
        "report.json",
    )
    paths = sorted(path for kind in kinds for path in folder.rglob(kind))
    assert paths
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def members(folder: Path, stream: str) -> dict[str, dict]:
    """Every sample of one stream by its key."""
    from shards.samples import read_samples

    return {
        sample["__key__"]: sample
        for path in sorted((folder / "shards" / stream).glob("*.tar"))
        for sample in read_samples(path)
    }


def everything(folder: Path) -> dict[str, bytes]:
    """Every file of a folder and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
