"""The step `duplicates`: reported first, removed by a setting, the same on every engine, redone where it changes."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile

from corpus import files
from corpus.toml import write_toml
from pipelines import settings
from pipelines.build import build, dry_run
from pipelines.engines.beam import BeamEngine
from pipelines.layout import part_names
from pipelines.reports.data_card import data_card
from tests.golden import tiny_settings
from tests.helpers.builds import hashes, members


def add_rows(manifest, rows):
    with open(manifest, "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def wanted(base, **duplicates):
    plain = dataclasses.replace(base, pitch=settings.PitchSettings(), style=settings.StyleSettings())
    return dataclasses.replace(plain, duplicates=settings.DuplicatesSettings(enabled=True, **duplicates))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A build of six recordings and four copies, with two evaluation sets, that reports and removes nothing."""
    folder = tmp_path_factory.mktemp("duplicates")
    base = tiny_settings(folder)
    manifest = files.to_path(base.corpus.source)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    corpus = manifest.parent
    wave, rate = soundfile.read(corpus / "1.wav", dtype="int16")
    soundfile.write(corpus / "same.flac", wave, rate)
    soundfile.write(
        corpus / "near.wav", wave + np.random.default_rng(0).integers(-1, 2, len(wave), "int16"), rate
    )
    soundfile.write(corpus / "eval.flac", soundfile.read(corpus / "4.wav", dtype="int16")[0], rate)
    other = "some words that are in no other recording of it"
    add_rows(manifest, [
        {**rows[1], "id": "same", "audio": "same.flac", "text": rows[1]["text"]},
        {**rows[1], "id": "near", "audio": "near.wav"},
        {**rows[1], "id": "again", "audio": "1.wav"},
        {**rows[0], "id": "bad", "audio": "gone.wav"},
    ])  # fmt: skip
    (folder / "eval.jsonl").write_text(json.dumps({"id": "e1", "audio": "corpus/eval.flac", "text": other}))
    (folder / "eval.txt").write_text(f"{other} either\n{rows[5]['text'].upper()}\n")
    (folder / "documents.txt").write_text(
        f"A page that holds {other}, and more.\nA page of its own that holds some other words of its kind.\n"
        "The third page.\n"
    )
    evaluation = [str(folder / "eval.jsonl"), str(folder / "eval.txt")]
    result = wanted(base, evaluation=evaluation, text_similarity=0.95)  # the texts overlap
    result = settings.replace(result, "text", documents=[str(folder / "documents.txt")])
    build(folder / "build", result)
    return folder, result


def table(folder):
    return {
        row["id"]: row
        for name in part_names(folder)
        for row in files.read_table(folder / "duplicates" / name).to_pylist()
    }


def report(folder):
    return json.loads((folder / "report" / "report.json").read_text())


def test_what_repeats_an_earlier_one_is_reported_and_kept(case):
    rows = table(case[0] / "build")
    same = {
        kind: {id: row[kind] for id, row in rows.items() if row[kind]}
        for kind in ("audio", "units", "evaluation")
    }
    assert same["audio"] == {"same": "u1", "again": "u1"}
    assert same["units"] == {"same": "u1", "near": "u1", "again": "u1"}
    assert same["evaluation"] == {"u4": "eval:e1", "u5": "eval.txt:eval=2Etxt-0000000002"}
    assert [rows[id]["evaluation_by"] for id in ("u4", "u5")] == ["audio", "text"]
    assert not any(row["reject"] for row in rows.values())
    found = report(case[0] / "build")
    assert {kind: one["utterances"] for kind, one in found["duplicates"].items()} == {
        "evaluation": 2, "audio": 2, "units": 3, "text": 3,
    }  # fmt: skip
    assert found["rejected"]["utterances"] == 1
    lines = (case[0] / "build" / "report" / "duplicates.jsonl").read_text().splitlines()
    *utterances, document = map(json.loads, lines)
    assert [line["id"] for line in utterances] == ["u4", "u5", "same", "near", "again"]
    assert document == {
        "document": "documents=2Etxt-0000000001", "evaluation": "eval:e1", "evaluation_by": "text",
        "text_similarity": 1.0,
    }  # fmt: skip
    assert found["documents"] == {"compared": 3, "evaluation": 1, "removed": 0}
    assert document["document"] in members(case[0] / "build", "text")


def test_a_setting_removes_them_and_the_hours_add_up(case, tmp_path):
    shutil.copytree(case[0] / "build", tmp_path / "build")
    build(tmp_path / "build", settings.replace(case[1], "duplicates", remove=["units", "evaluation"]))
    found = report(tmp_path / "build")
    assert {reason: one["utterances"] for reason, one in found["reasons"].items()} == {
        "audio.missing": 1, "duplicate.evaluation": 2, "duplicate.units": 3,
    }  # fmt: skip
    assert found["in"]["samples"] == found["out"]["samples"] + found["rejected"]["samples"]
    assert members(tmp_path / "build", "speech").keys() == {"u0", "u1", "u2", "u3"}
    documents = {"documents=2Etxt-0000000002", "documents=2Etxt-0000000003"}
    assert members(tmp_path / "build", "text").keys() == {"u0", "u1", "u2", "u3"} | documents
    assert found["documents"] == {"compared": 3, "evaluation": 1, "removed": 1}
    assert "3 compared with evaluation sets; 1 hold a text of one, 1 of them" in data_card(tmp_path / "build")
    assert table(tmp_path / "build")["same"]["detail"] == "as u1, similarity 1.00"


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_a_plain_loop(case, tmp_path):
    build(tmp_path / "build", case[1], BeamEngine(2))
    assert hashes(tmp_path / "build") == hashes(case[0] / "build")


def test_a_new_recording_redoes_only_what_it_changes(case, tmp_path):
    folder, reported = case
    shutil.copytree(folder / "build", tmp_path / "build")
    plans = {plan.stage: plan for plan in dry_run(tmp_path / "build", reported)}
    assert not any(plan.todo or plan.waits for plan in plans.values())
    manifest = tmp_path / "manifest.jsonl"
    rows = [json.loads(line) for line in files.to_path(reported.corpus.source).read_text().splitlines()]
    for row in rows:
        row["audio"] = str(folder / "corpus" / row["audio"])
        row["alignment"] = str(folder / "corpus" / row["alignment"])
    add_rows(manifest, [*rows, {**rows[2], "id": "new", "speaker": None}])
    more = settings.replace(reported, "corpus", source=str(manifest))
    before = {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "build" / "duplicates").glob("*.parquet")
    }
    assert {plan.stage: plan.waits for plan in dry_run(tmp_path / "build", more)}["duplicates"]
    build(tmp_path / "build", more)
    after = {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "build" / "duplicates").glob("*.parquet")
    }
    assert [name for name in before if before[name] != after[name]] in ([], [sorted(before)[-1]])
    assert table(tmp_path / "build")["new"]["audio"] == "u2"


def test_new_documents_and_other_evaluation_sets_are_compared(case, tmp_path):
    shutil.copytree(case[0] / "build", tmp_path / "build")
    (tmp_path / "documents.txt").write_text((case[0] / "documents.txt").read_text() + "The fourth page.\n")
    more = settings.replace(case[1], "text", documents=[str(tmp_path / "documents.txt")])
    build(tmp_path / "build", more)
    assert report(tmp_path / "build")["documents"]["compared"] == 4
    other = settings.replace(case[1], "duplicates", evaluation=[str(case[0] / "eval.jsonl")])
    plans = {plan.stage: plan for plan in dry_run(case[0] / "build", other)}
    assert plans["duplicates"].todo


def test_settings_that_cannot_be_are_refused(tmp_path, case):
    with pytest.raises(ValueError, match=r"duplicates\.remove: need one of audio, .*got 'sound'"):
        settings.DuplicatesSettings(enabled=True, remove=["sound"])
    with pytest.raises(ValueError, match=r"duplicates\.enabled: need true"):
        settings.DuplicatesSettings(remove=["audio"])
    with pytest.raises(ValueError, match=r"duplicates\.text_similarity: need 0\.3 to 1, got 0\.1"):
        settings.DuplicatesSettings(enabled=True, text_similarity=0.1)
    gone = settings.replace(case[1], "duplicates", evaluation=[str(tmp_path / "gone.txt")])
    with pytest.raises(
        ValueError, match=r"duplicates\.evaluation: .*gone\.txt: need a folder with testset\.json"
    ):
        build(tmp_path / "build", gone)
    assert not (tmp_path / "build" / "manifest").exists()  # said before any work
    assert write_toml(gone)
