"""One file adds a step or an engine: no other file is edited."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

import wordweave
from pipelines import build
from pipelines.engines import registry
from pipelines.engines.local import LocalEngine
from pipelines.layout import part_tasks
from pipelines.operations import prune
from pipelines.operations.cost_estimate import Workers, predict
from pipelines.operations.cost_measure import measure
from pipelines.operations.doctor import health
from pipelines.steps.audio import AudioStage, AudioWorker
from pipelines.steps.base import Step, reject_columns, token_schema
from shards.verify import verify
from tests.helpers.builds import build_settings, members, run_build

LOUDNESS = token_schema("loudness")


@dataclass(frozen=True)
class MeasureLoudness(AudioStage):
    """Utterances -> the peak of each 100 ms; a recording that never exceeds `floor` is rejected."""

    floor: float = 0.0
    device: str = "cpu"
    name: ClassVar[str] = "loudness"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("device",)

    def open(self):
        return AudioWorker(self, LOUDNESS, self.process)

    def process(self, batch, rows):
        peaks = [None if wave is None else self.peaks(wave) for _, wave, _ in rows]
        columns = [batch.column("id"), pa.array(peaks, LOUDNESS.field(1).type)]
        return pa.record_batch([*columns, *reject_columns([row[2] for row in rows])], schema=LOUDNESS)

    @staticmethod
    def peaks(wave):
        blocks = wave[: len(wave) // 1600 * 1600].reshape(-1, 1600)
        return np.round(32767 * np.abs(blocks).max(axis=1)).astype(np.int16)


def loudness_tasks(run):
    stage = MeasureLoudness()
    return stage, part_tasks(run.folder, stage, "loudness")


STEP = Step(
    "loudness",
    "Measure the loudness",
    table="loudness",
    after=("ingest",),
    tasks=loudness_tasks,
    rejects=True,
    member="loudness.npy",
    decodes=True,
)


@pytest.fixture
def with_loudness(monkeypatch):
    """STEPS with the toy step before `interleave`."""
    place = [step.name for step in build.STEPS].index("interleave")
    monkeypatch.setattr(build, "STEPS", [*build.STEPS[:place], STEP, *build.STEPS[place:]])
    monkeypatch.setattr("pipelines.operations.prune.STEPS", build.STEPS)
    monkeypatch.setattr("pipelines.operations.cost_estimate.STEPS", build.STEPS)


def test_a_step_registered_in_one_file_is_in_build_dry_run_cost_prune_report_and_shards(
    with_loudness, spoken_corpus, tmp_path
):
    folder, settings = (
        tmp_path / "build",
        build_settings(spoken_corpus, units={"clusters": 50, "fit_frames": 5000}),
    )
    assert "loudness" in {plan.stage for plan in build.dry_run(folder, settings)}
    report = run_build(folder, settings)
    assert report["tables"]["loudness"] == {"step": "loudness", "summary": "Measure the loudness"}
    for stream in ("speech", "interleaved"):
        for sample in members(folder, stream).values():
            assert sample["loudness.npy"].max() > 1000
            assert len(sample["loudness.npy"]) == sample["json"]["samples"] // 1600
    assert verify(folder) == []
    plans = {plan.stage: plan for plan in build.dry_run(folder, settings)}
    assert not any(plan.todo or plan.waits for plan in plans.values())
    assert plans["loudness"].up_to_date == plans["units"].up_to_date > 1
    assert "loudness" in health(folder)[1]
    assert prune.find(folder) == []
    (folder / "loudness" / "part-00000.parquet.done").write_text(json.dumps({"key": "old"}))
    (stale, marker) = prune.find(folder)
    assert (stale.name, marker.name) == ("loudness/part-00000.parquet", "loudness/part-00000.parquet.done")
    waiting = {plan.stage: plan.waits for plan in build.dry_run(folder, settings)}
    assert waiting["interleave"] == "loudness"


@pytest.mark.slow
def test_a_registered_step_has_its_line_in_the_cost_estimate(with_loudness, spoken_corpus, tmp_path):
    settings = build_settings(spoken_corpus, units={"clusters": 50, "fit_frames": 5000})
    estimate = predict(measure(settings, tmp_path, minutes=1.5), settings, 100.0, Workers())
    assert {"loudness (driver)"} <= {row["step"] for row in estimate["steps"]}
    assert estimate["storage"]["loudness"] > 0


def test_an_engine_registered_in_one_file_runs_a_command(spoken_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "ENGINES", dict(registry.ENGINES))
    monkeypatch.setattr("commands.cli.ENGINES", registry.ENGINES)
    ran = []

    @registry.register
    class Backwards(LocalEngine):
        """The last task first."""

        name: ClassVar[str] = "backwards"
        summary: ClassVar[str] = "the last task first"

        def run(self, stage, build, tasks):
            ran.append([task.output for task in tasks])
            super().run(stage, build, tasks[::-1])

    folder = tmp_path / "build"
    build.run_step("ingest", folder, build_settings(spoken_corpus))
    result = CliRunner().invoke(wordweave.cli, ["align", str(folder), "--engine", "backwards"])
    assert result.exit_code == 0, result.output
    assert ran == [sorted(f"words/{path.name}" for path in (folder / "words").glob("*.parquet"))]
    with pytest.raises(ValueError, match="registered already"):
        registry.register(Backwards)
