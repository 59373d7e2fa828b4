"""`build --dry-run`: it says what the build then does, stage by stage, and writes nothing."""

import json

import pytest
from click.testing import CliRunner

import wordweave
from corpus.toml import write_toml
from pipelines import settings
from pipelines.build import dry_run, run_step
from tests.helpers.builds import LOCAL, build_settings, run_build
from tests.pipelines.test_engines import everything


def planned(folder, config):
    """Stage -> (to do, up to date) or what it waits for; nothing in the folder may change."""
    before = everything(folder)
    plan_of_step = dry_run(folder, config)
    assert everything(folder) == before
    return {
        plan.stage: plan.waits or (len(plan.todo), plan.up_to_date) for plan in plan_of_step
    }, plan_of_step


def test_of_a_finished_build_everything_stands(built, spoken_corpus):
    plan_of_step, plans = planned(built, build_settings(spoken_corpus))
    assert list(plan_of_step) == ["ingest", "fit units", "units", "align", "interleave"]
    assert all(todo == 0 < standing for todo, standing in plan_of_step.values())
    assert str(plans[2]) == f"units: up to date ({plan_of_step['units'][1]})"


@pytest.mark.parametrize(
    ("section", "change", "redone", "why", "waits"),
    [
        ("interleave", {"seed": 7}, ["interleave"], "seed 0 -> 7", {}),
        ("text", {"size": 300}, ["interleave"], "vocabulary_hash", {}),
        ("align", {"options": {"minimum_score": -100.0}}, ["align"], "aligner", {"interleave": "align"}),
        (
            "units",
            {"seed": 3},
            ["fit units"],
            "new",
            {"units": "fit units", "interleave": "fit units and units"},
        ),
    ],
)
def test_one_changed_setting_shows_its_stage_and_those_after_it(
    built,
    spoken_corpus,
    section,
    change,
    redone,
    why,
    waits,
):
    stands, _ = planned(built, build_settings(spoken_corpus))
    plan_of_step, plans = planned(built, settings.replace(build_settings(spoken_corpus), section, **change))
    assert {stage: plan_of_step.pop(stage) for stage in waits} == waits
    for plan in plans:
        if plan.stage in redone:
            todo, standing = plan_of_step.pop(plan.stage)
            assert todo > 0 == standing
            assert why in str(plan)
    assert plan_of_step.items() <= stands.items()


def test_ten_recordings_more_show_the_parts_they_are_in_as_the_build_then_does(spoken_corpus, tmp_path):
    lines = [json.loads(line) for line in spoken_corpus.read_text().splitlines()]
    rows = [
        json.dumps({**row, "audio": str(spoken_corpus.parent / row["audio"]), "alignment": None})
        for row in lines
    ]
    source, build = tmp_path / "manifest.jsonl", tmp_path / "build"
    source.write_text("\n".join(rows[:14]))
    changed = build_settings(source, units={"clusters": 50, "fit_frames": 5000})
    plans = dry_run(build, changed)
    assert not build.exists()
    assert [plan.stage for plan in plans if plan.waits] == ["units", "interleave"]
    run_build(build, changed, LOCAL)
    source.write_text("\n".join([*rows[14:], *rows[:14]]))
    config = tmp_path / "x.toml"
    config.write_text(write_toml(changed))
    before = everything(tmp_path)
    result = CliRunner().invoke(
        wordweave.cli, ["build", str(config), "--build", str(build), "--dry-run", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert everything(tmp_path) == before
    shown = {row["stage"]: row for row in json.loads(result.stdout.strip().splitlines()[-1])["stages"]}
    assert shown["ingest"]["reasons"].keys() == {"the source changed", "new"}
    assert shown["ingest"]["reasons"]["the source changed"] == 1
    assert shown["interleave"]["waits"] == "ingest, units and align"
    assert "interleave: waits for ingest, units and align" in result.stderr
    run_step("ingest", build, changed)
    for stage in ("units", "align"):
        done = run_step(stage, build, changed)
        assert (done["done"], done["skipped"]) == (shown[stage]["todo"], shown[stage]["up_to_date"])
        assert done["skipped"] >= 1
        assert shown[stage]["reasons"] == {"manifest changed": 1, "new": done["done"] - 1}
