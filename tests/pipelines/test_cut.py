"""The step `cut`: long recordings become utterances, each sample is accounted for, on every engine alike."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from corpus import files
from corpus.adapters import ADAPTERS, read_jsonl
from corpus.audio import decode
from corpus.records import Utterance
from pipelines.build import dry_run, run_step
from pipelines.engines.beam import BeamEngine
from pipelines.layout import part_names
from pipelines.operations import prune
from pipelines.operations.cost_estimate import Workers, predict
from pipelines.operations.cost_measure import measure
from pipelines.settings import read_file, replace, write_settings
from pipelines.steps.cut import CUTS_FOLDER
from tests.helpers.builds import LOCAL, build_settings, hashes, members, run_build

GAP = np.zeros(32_000, np.float32)


def write_recording(path, waves, rate=16_000):
    """The waves, each after two seconds of silence."""
    sound = np.concatenate([part for wave in waves for part in (GAP, wave)])
    soundfile.write(path, np.repeat(sound, rate // 16_000), rate)
    return len(sound)


@pytest.fixture(scope="module")
def waves(spoken_corpus):
    return [decode(utterance) for utterance in read_jsonl(spoken_corpus)][:9]


@pytest.fixture(scope="module")
def recordings(waves, tmp_path_factory):
    """A manifest of two long recordings without transcript, and one short one."""
    folder = tmp_path_factory.mktemp("long")
    sizes = [
        write_recording(folder / "one.flac", waves[:5]),
        write_recording(folder / "two.wav", waves[5:8], 48_000),
        write_recording(folder / "three.wav", waves[8:9]),
    ]
    rows = [{"id": name.split(".")[0], "audio": name} for name in ("one.flac", "two.wav", "three.wav")]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "m.jsonl", sum(sizes)


def cut_settings(manifest, **cut):
    return build_settings(
        manifest,
        corpus={"keep_unaligned": True, "part_minutes": 0.5},
        cut={"enabled": True, "max_seconds": 15.0, **cut},
        units={"clusters": 20, "fit_frames": 500},
    )


@pytest.fixture(scope="module")
def cut_build(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    return folder, run_build(folder, cut_settings(recordings[0]))


def manifest_rows(folder):
    return [
        row for name in part_names(folder) for row in files.read_table(folder / "manifest" / name).to_pylist()
    ]


def test_speech_without_transcript_becomes_speech_shards_and_every_sample_is_accounted_for(
    cut_build, recordings
):
    folder, report = cut_build
    assert report["in"]["samples"] == recordings[1]
    assert report["cut_away"]["samples"] > 5 * 16_000
    assert report["out"]["samples"] + report["cut_away"]["samples"] == recordings[1]
    assert report["rejected"]["utterances"] == 0
    assert members(folder, "speech").keys() == {
        row["id"] for row in manifest_rows(folder) if not row["reject"]
    }
    for name in ("one", "two"):
        rows = [
            row for row in manifest_rows(folder) if row["audio"].endswith((f"{name}.flac", f"{name}.wav"))
        ]
        ends = [row["first_frame"] + row["frames"] for row in rows]
        assert [row["first_frame"] for row in rows] == [0, *ends[:-1]]
        assert ends[-1] == soundfile.info(rows[0]["audio"]).frames


def test_each_spoken_clip_is_inside_utterances_and_long_pauses_are_not(cut_build, waves):
    rows = [row for row in manifest_rows(cut_build[0]) if row["audio"].endswith("one.flac")]
    kept = np.zeros(sum(row["frames"] for row in rows), bool)
    for row in rows:
        kept[row["first_frame"] : row["first_frame"] + row["frames"]] = row["reject"] is None
    at = 0
    for wave in waves[:5]:
        at += len(GAP)
        loud = np.abs(wave) > 0.05
        assert kept[at : at + len(wave)][loud].mean() > 0.99
        at += len(wave)
    assert {row["reject"] for row in rows} == {None, "cut.silence"}


@pytest.mark.slow
def test_the_bytes_are_the_same_on_beam(cut_build, recordings, tmp_path):
    for step in ("ingest", "cut"):
        run_step(step, tmp_path, cut_settings(recordings[0]), BeamEngine(workers=1))
    same = hashes(cut_build[0])
    assert hashes(tmp_path).items() <= same.items()


def test_more_recordings_and_other_rules_redo_only_what_they_change(cut_build, recordings, tmp_path):
    build, source = tmp_path / "build", recordings[0].parent
    shutil.copytree(cut_build[0], build)
    more = source / "more.jsonl"
    more.write_text(
        recordings[0].read_text() + json.dumps({"id": "four", "audio": str(source / "two.wav")}) + "\n"
    )
    assert not any(plan.todo for plan in dry_run(build, cut_settings(recordings[0])))
    plans = {plan.stage: plan for plan in dry_run(build, cut_settings(more))}
    assert plans["units"].waits == "cut and fit units"
    run_step("ingest", build, cut_settings(more), LOCAL)
    counts = run_step("cut", build, cut_settings(more), LOCAL)
    assert counts["skipped"] == counts["tasks"] - 1
    assert manifest_rows(build)[: len(manifest_rows(cut_build[0]))] == manifest_rows(cut_build[0])
    assert dry_run(build, cut_settings(more, pause=0.7))[1].reasons


def test_a_recording_that_breaks_off_is_rejected_whole(waves, tmp_path):
    write_recording(tmp_path / "a.flac", waves[:4])
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[: len(content) * 2 // 3])
    write_recording(tmp_path / "b.wav", waves[:2])
    lines = [{"id": name, "audio": f"{name}.{ending}"} for name, ending in (("a", "flac"), ("b", "wav"))]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in ("ingest", "cut"):
        run_step(step, tmp_path / "build", cut_settings(tmp_path / "m.jsonl"), LOCAL)
    broken = [row for row in manifest_rows(tmp_path / "build") if row["audio"].endswith("a.flac")]
    assert [row["reject"] for row in broken] == ["audio.truncated"]
    whole = sum(len(wave) + len(GAP) for wave in waves[:4])
    assert 0.6 * whole < broken[0]["samples"] < 0.72 * whole  # what is there of it


def test_rules_out_of_range_name_their_section(tmp_path):
    (tmp_path / "c.toml").write_text("[cut]\nmin_seconds = 20\n")
    with pytest.raises(ValueError, match="cut: need 0 < 3 \\* min_seconds"):
        read_file(tmp_path / "c.toml")


@pytest.fixture(scope="module")
def transcribed(spoken_corpus, tmp_path_factory):
    """A long recording with the text of all its clips but the third, and the clips."""
    clips = list(read_jsonl(spoken_corpus))[:8]
    folder = tmp_path_factory.mktemp("transcribed")
    write_recording(folder / "talk.flac", [decode(clip) for clip in clips])
    text = ". ".join(clip.text for number, clip in enumerate(clips) if number != 2)
    line = {"id": "talk", "audio": "talk.flac", "text": text, "speaker": "x"}
    (folder / "m.jsonl").write_text(json.dumps(line) + "\n")
    for step in ("ingest", "cut"):
        run_step(step, folder / "build", cut_settings(folder / "m.jsonl"), LOCAL)
    return manifest_rows(folder / "build"), clips


def test_each_utterance_of_a_told_recording_gets_its_own_words(transcribed):
    rows, clips = transcribed
    kept = [row for row in rows if row["reject"] is None]
    spoken = [word for number, clip in enumerate(clips) if number != 2 for word in clip.text.split()]
    assert " ".join(row["text"] for row in kept).replace(".", "").split() == [
        word.strip(".") for word in spoken
    ]
    at, same = 0, 0
    for number, clip in enumerate(clips):
        begin, end = at + len(GAP), at + len(GAP) + clip.samples
        inside = [row for row in kept if begin < row["first_frame"] + row["frames"] / 2 < end]
        text = " ".join(row["text"] for row in inside).replace(".", "")
        same += number != 2 and text == clip.text.replace(".", "")
        at = end
    assert same >= 6


def test_speech_that_the_transcript_lacks_is_cut_away_and_says_where(transcribed):
    rows, clips = transcribed
    begin = sum(len(GAP) + clip.samples for clip in clips[:2]) + len(GAP)
    holes = [row for row in rows if row["reject"] == "cut.no_transcript"]
    covered = sum(
        max(
            0,
            min(row["first_frame"] + row["frames"], begin + clips[2].samples)
            - max(row["first_frame"], begin),
        )
        for row in holes
    )
    assert covered > 0.8 * clips[2].samples
    assert sum(row["frames"] for row in holes) < clips[2].samples + 3 * len(GAP)
    assert "of the transcript" in holes[0]["detail"]
    assert sum(row["samples"] for row in rows) == sum(len(GAP) + clip.samples for clip in clips)


@pytest.mark.slow
def test_subtitles_and_chapters_go_through_cutting(spoken_corpus, tmp_path):
    """The text of subtitles is that of the whole recording; a chapter is a stretch of it with its own text."""
    clips = [row for row in ADAPTERS["jsonl"](spoken_corpus) if isinstance(row, Utterance)][:8]
    waves = [decode(clip) for clip in clips]
    (tmp_path / "talks").mkdir()
    size = write_recording(tmp_path / "talks" / "talk.wav", waves[:4])
    size += write_recording(tmp_path / "talks" / "other.wav", waves[4:])
    cues = "".join(
        f"{number}\n00:00:00,000 --> 00:00:09,000\n{clip.text}\n\n" for number, clip in enumerate(clips[:4])
    )
    (tmp_path / "talks" / "talk.srt").write_text(cues)
    cues = "".join(f"00:00.000 --> 00:09.000\n<v Anna>{clip.text}\n\n" for clip in clips[4:])
    (tmp_path / "talks" / "other.vtt").write_text(f"WEBVTT\n\nNOTE a talk\n\n{cues}")
    chapters = [waves[:4], waves[4:]]
    edges = [write_recording(tmp_path / "whole.wav", several) for several in chapters]
    write_recording(tmp_path / "whole.wav", waves)
    rows = [
        {"id": "one", "audio": "whole.wav", "start": 0, "end": edges[0] / 16_000},
        {"id": "two", "audio": "whole.wav", "start": edges[0] / 16_000, "end": sum(edges) / 16_000},
    ]
    for row, several in zip(rows, (clips[:4], clips[4:]), strict=True):
        row |= {"text": " ".join(clip.text for clip in several)}
    (tmp_path / "chapters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for adapter, source, total in (("folder", "talks", size), ("jsonl", "chapters.jsonl", sum(edges))):
        config = replace(cut_settings(tmp_path / source), "corpus", adapter=adapter)
        folder = tmp_path / adapter
        run_step("ingest", folder, config)
        run_step("cut", folder, config)
        found = manifest_rows(folder)
        assert sum(row["samples"] for row in found) == total
        for name, several in (
            {"talk": clips[:4], "other": clips[4:]}
            if adapter == "folder"
            else {"one": clips[:4], "two": clips[4:]}
        ).items():
            kept = [row for row in found if row["reject"] is None and row["id"].startswith(f"{name}-")]
            assert len(kept) > 1
            words = " ".join(row["text"] for row in kept).replace(".", "").split()
            assert words == " ".join(clip.text for clip in several).replace(".", "").split()
        if adapter == "jsonl":
            assert min(row["first_frame"] for row in found if row["id"].startswith("two")) == edges[0]


def test_prune_keeps_the_cuts_of_a_build_and_removes_those_of_other_settings(cut_build, recordings, tmp_path):
    folder = shutil.copytree(cut_build[0], tmp_path / "build")
    assert prune.find(folder) == []
    left = folder / CUTS_FOLDER / "part-99999.parquet"
    left.write_bytes(b"x")
    assert [stale.name for stale in prune.find(folder)] == [f"{CUTS_FOLDER}/{left.name}"]
    left.unlink()
    write_settings(folder, cut_settings(recordings[0], pause=2.0))
    names = {path.name for path in (folder / CUTS_FOLDER).iterdir()}
    assert {stale.name for stale in prune.find(folder)} == {f"{CUTS_FOLDER}/{name}" for name in names}


@pytest.mark.slow
def test_the_cost_of_a_corpus_to_be_cut_is_estimated(recordings, tmp_path):
    measured = measure(cut_settings(recordings[0]), tmp_path, minutes=0.5)
    assert measured.work["cut"].hourly > 0
    rows = predict(measured, cut_settings(recordings[0]), 10.0, Workers())["steps"]
    assert "cut" in [row["step"] for row in rows]
