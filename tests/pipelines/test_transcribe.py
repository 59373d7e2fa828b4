"""The step `transcribe`: utterances without text get one that meets the rules, every sample is accounted for."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import wordweave
from corpus import files
from corpus.adapters import read_jsonl
from corpus.audio import decode
from pipelines import settings
from pipelines.build import dry_run, run_step, run_to
from pipelines.engines.beam import BeamEngine
from pipelines.layout import part_names
from pipelines.operations.preview import preview
from pipelines.settings import TranscribeSettings
from tests.helpers.builds import LOCAL, build_settings, hashes

ANSWERS = {
    "a": "It was a fine morning.",
    "b": "thank you " * 7,
    "c": "one two three four five six seven eight nine ten eleven twelve thirteen " * 3,
    "d": "somebody speaks",
    "e": "...",
    "f": None,
    "g": "It was a fine evening.",
}
"""What the recogniser of these tests prints for each recording; None: it hangs."""
SCRIPT = """
import sys, time, wave
number = wave.open(sys.argv[1]).getnframes() % 100
text = {answers}[sorted({answers})[number]]
time.sleep(0 if text else 60)
print(text)
"""


@pytest.fixture(scope="module")
def corpus(spoken_corpus, tmp_path_factory):
    """A manifest of seven recordings without text, whose lengths name them, one with text and one that is gone."""
    folder = tmp_path_factory.mktemp("untranscribed")
    speech = decode(next(read_jsonl(spoken_corpus)))[: 2 * 16_000]
    rows = []
    for number, name in enumerate(ANSWERS):
        wave = np.zeros(32_000) if name == "d" else speech
        soundfile.write(folder / f"{name}.wav", np.concatenate([wave, np.zeros(number)]), 16_000)
        rows.append({"id": name, "audio": f"{name}.wav"})
    rows += [{"id": "told", "audio": "a.wav", "text": "as given"}, {"id": "gone", "audio": "gone.wav"}]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, change in (("recogniser", {}), ("second", {"g": "It was a cold evening."})):
        (folder / f"{name}.py").write_text(SCRIPT.format(answers={**ANSWERS, **change}))
    return folder


def transcribe_settings(folder, keep=False, **changes):
    command = f"{sys.executable} -I -S {folder / 'recogniser.py'}"
    second = f"{sys.executable} -I -S {folder / 'second.py'}"
    return build_settings(
        folder / "m.jsonl",
        corpus={"part_minutes": 0.1, "keep_unaligned": keep},
        transcribe={
            "enabled": True, "command": command, "second_command": second, "timeout": 2.0,
            "minimum": {"agreement": 0.9}, **changes,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def transcribed(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transcribed")
    wanted = transcribe_settings(corpus)
    for step in ("ingest", "transcribe"):
        run_step(step, folder, wanted, LOCAL)
    return folder, wanted


def manifest_rows(folder):
    return [
        row for name in part_names(folder) for row in files.read_table(folder / "manifest" / name).to_pylist()
    ]


def test_utterances_get_text_that_meets_the_rules_and_every_other_one_its_reason(transcribed):
    rows = {row["id"]: (row["text"], row["reject"]) for row in manifest_rows(transcribed[0])}
    assert rows == {
        "a": (ANSWERS["a"], None),
        "b": (None, "transcribe.repetition"),
        "c": (None, "transcribe.repetition"),
        "d": (None, "transcribe.speech_share"),
        "e": (None, "transcribe.empty"),
        "f": (None, "transcribe.timeout"),
        "g": (None, "transcribe.agreement"),
        "told": ("as given", None),
        "gone": (None, "audio.missing"),
    }
    details = {row["id"]: row["detail"] for row in manifest_rows(transcribed[0])}
    assert "agreement 0.8, need at least 0.9: 'It was a fine evening.'" in details["g"]
    assert "took longer than 2 s" in details["f"]


def test_the_samples_are_those_that_came_in(transcribed):
    before = [
        row
        for name in part_names(transcribed[0] / "untranscribed")
        for row in files.read_table(transcribed[0] / "untranscribed" / "manifest" / name).to_pylist()
    ]
    assert [row["samples"] for row in before] == [row["samples"] for row in manifest_rows(transcribed[0])]


def test_words_confidence_and_measures_are_columns(transcribed):
    rows = [
        row
        for path in sorted((transcribed[0] / "untranscribed" / "transcripts").glob("*.parquet"))
        for row in files.read_table(path).to_pylist()
    ]
    first = rows[0]
    assert [word["text"] for word in first["words"]] == ANSWERS["a"].split()
    assert (first["second"], first["agreement"], first["repetition"]) == (ANSWERS["a"], 1.0, 0.0)
    assert first["words_per_second"] == 2.5
    assert rows[6]["agreement"] == 0.8


def test_the_command_runs_where_ingest_left_no_other_manifest_and_later_ones_name_it(transcribed, tmp_path):
    build, runner = tmp_path / "build", CliRunner()
    shutil.copytree(transcribed[0], build)
    shutil.rmtree(build / "manifest")
    result = runner.invoke(wordweave.cli, ["align", str(build), "--engine", "local"])
    assert result.exit_code == 1
    assert "no finished manifest here; run `wordweave transcribe` first" in result.output
    result = runner.invoke(wordweave.cli, ["transcribe", str(build), "--engine", "local"])
    assert result.exit_code == 0, result.output
    assert manifest_rows(build) == manifest_rows(transcribed[0])


def test_other_rules_transcribe_nothing_again(transcribed, corpus, tmp_path):
    build, wanted = tmp_path / "build", transcribed[1]
    shutil.copytree(transcribed[0], build)
    assert not any(plan.todo for plan in dry_run(build, wanted) if plan.stage in ("ingest", "transcribe"))
    looser = transcribe_settings(
        corpus, minimum={"agreement": 0.5, "speech_share": 0}, maximum={"repetition": 0.9}
    )
    plans = {plan.stage: plan for plan in dry_run(build, looser)}
    assert all(task.output.startswith("manifest/") for task in plans["transcribe"].todo)
    counts = run_step("transcribe", build, looser, LOCAL)
    assert counts["skipped"] == counts["tasks"]
    assert {row["id"]: row["reject"] for row in manifest_rows(build)} == {
        "a": None, "b": None, "c": "transcribe.words_per_second", "d": None, "e": "transcribe.empty",
        "f": "transcribe.timeout", "g": None, "told": None, "gone": "audio.missing",
    }  # fmt: skip


def test_more_recordings_are_transcribed_alone(transcribed, corpus, tmp_path):
    build, wanted = tmp_path / "build", transcribed[1]
    shutil.copytree(transcribed[0], build)
    more = corpus / "more.jsonl"
    more.write_text((corpus / "m.jsonl").read_text() + json.dumps({"id": "new", "audio": "a.wav"}) + "\n")
    longer = settings.replace(wanted, "corpus", source=str(more))
    run_step("ingest", build, longer, LOCAL)
    counts = run_step("transcribe", build, longer, LOCAL)
    assert counts["tasks"] - counts["skipped"] == 1
    assert [row["text"] for row in manifest_rows(build) if row["id"] == "new"] == [ANSWERS["a"]]


def test_speech_with_a_refused_transcript_may_be_kept_without_it(transcribed, corpus, tmp_path):
    shutil.copytree(transcribed[0], tmp_path / "build")
    keeping = transcribe_settings(corpus, keep=True)
    for step in ("ingest", "transcribe"):
        run_step(step, tmp_path / "build", keeping, LOCAL)
    rows = {row["id"]: (row["text"], row["reject"]) for row in manifest_rows(tmp_path / "build")}
    assert rows["g"] == (None, None)
    assert rows["gone"] == (None, "audio.missing")


def test_the_preview_shows_what_each_rule_drops(transcribed, tmp_path):
    folder, wanted = transcribed
    shutil.copytree(folder, tmp_path / "build")
    wanted = settings.replace(wanted, "quality", enabled=True)
    result = preview(run_to("quality", tmp_path / "build", wanted, LOCAL))
    dropped = {one["measure"]: one for one in result["transcripts"]["filters"]}
    assert [one["id"] for one in dropped["agreement"]["examples"]] == ["g"]
    assert dropped["words_per_second"]["utterances"] == 1
    assert dropped["words_per_second"]["alone"]["utterances"] == 0
    assert dropped["repetition"]["utterances"] == 2
    rejected = [row for row in manifest_rows(folder) if row["reject"]]
    rules = [row for row in rejected if row["reject"].removeprefix("transcribe.") in dropped]
    assert result["dropped"]["samples"] == sum(row["samples"] for row in rules)
    assert result["dropped"]["samples"] + result["rejected"]["samples"] == sum(
        row["samples"] for row in rejected
    )


def test_a_recording_is_cut_before_it_is_transcribed(spoken_corpus, tmp_path):
    waves = [decode(one) for one in list(read_jsonl(spoken_corpus))[:3]]
    sound = np.concatenate([part for wave in waves for part in (np.zeros(32_000), wave)])
    soundfile.write(tmp_path / "talk.wav", sound, 16_000)
    (tmp_path / "m.jsonl").write_text('{"id": "talk", "audio": "talk.wav"}\n')
    (tmp_path / "recogniser.py").write_text("print('so it is')")
    wanted = transcribe_settings(tmp_path, second_command="", minimum={})
    wanted = dataclasses.replace(wanted, cut=settings.CutSettings(enabled=True, max_seconds=12.0))
    for step in ("ingest", "cut", "transcribe"):
        run_step(step, tmp_path / "build", wanted, LOCAL)
    rows = manifest_rows(tmp_path / "build")
    assert sum(row["samples"] for row in rows) == len(sound)
    assert {(row["text"], row["reject"]) for row in rows} == {("so it is", None), (None, "cut.silence")}
    assert not any(plan.todo for plan in dry_run(tmp_path / "build", wanted)[:3])


@pytest.mark.slow
def test_the_bytes_are_the_same_on_beam(transcribed, corpus, tmp_path):
    for step in ("ingest", "transcribe"):
        run_step(step, tmp_path, transcribed[1], BeamEngine(workers=2))
    assert hashes(tmp_path) == hashes(transcribed[0])


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"enabled": True}, "transcribe: need a model or a command, got neither"),
        ({"enabled": True, "model": "a", "command": "b"}, "transcribe: need a model or a command, got both"),
        ({"second_model": "a", "second_command": "b"}, "need second_model or second_command, got both"),
        ({"minimum": {"agreement": 0.5}}, "a filter on agreement needs a second recogniser"),
        ({"minimum": {"snr": 5.0}}, "transcribe: unknown measure 'snr'; known: confidence, agreement"),
        ({"dtype": "int8"}, "transcribe.dtype: need one of float32, bfloat16, float16"),
        ({"timeout": 0.0}, "transcribe: need batch >= 0 and timeout > 0"),
    ],
)
def test_settings_that_cannot_work_are_named(section, line):
    with pytest.raises(ValueError, match=line):
        TranscribeSettings(**section)


def test_a_build_that_was_ingested_without_it_names_the_way_out(transcribed, tmp_path):
    plain = settings.replace(transcribed[1], "transcribe", enabled=False)
    with pytest.raises(ValueError, match="enabled = true when the source is ingested"):
        run_step("transcribe", tmp_path, plain, LOCAL)
