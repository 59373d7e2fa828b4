"""A build with pitch and style: the same units, the paper's Expressive stream in the shards, any worker count."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import CliRunner

import wordweave
from pipelines import settings
from pipelines.build import make_run, run_step
from pipelines.engines.beam import BeamEngine
from pipelines.steps import prosody
from shards.interleave import speech_tokens
from shards.samples import read_utterance
from shards.sequence import parse_spans
from shards.stream import split
from shards.vocabulary import Vocabulary
from tests.helpers.builds import LOCAL, build_settings, fit_units, hashes, members, run_build
from tests.pipelines.test_build import bad_corpus
from tests.pipelines.test_dry_run import planned
from tests.units.test_f0 import odd
from units.deduplicate import deduplicate
from units.prosody import pitch, style


def wanted(manifest, **sections):
    use = {
        "pitch": {"enabled": True},
        "style": {"enabled": True},
        "units": {"clusters": 60, "fit_frames": 5000},
    }
    return build_settings(manifest, **{**use, **sections})


@pytest.fixture(scope="module")
def built(spoken_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expressive")
    run_build(folder, wanted(spoken_corpus), LOCAL)
    return folder


def rows_of(build, table):
    return [
        row for path in sorted((build / table).glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def test_shards_hold_style_pitch_and_units_in_order_of_time(built):
    vocabulary = Vocabulary.load(built / "shards")
    assert (vocabulary.units, vocabulary.pitch, vocabulary.style) == (60, 64, 100)
    kept = members(built, "interleaved")
    assert len(kept) > 20
    for sample in kept.values():
        assert {"units.npy", "pitch.npy", "style.npy"} <= sample.keys()
        spans = parse_spans(sample["tokens.npy"], vocabulary)
        for span in spans:
            kinds = [vocabulary.names[i][1:3] for i in span.ids]
            if span.speech and kinds:
                assert kinds[:3] == ["St", "Pi", "Hu"]
                assert set(kinds) <= {"St", "Pi", "Hu"}


def test_the_speech_stream_taken_apart_gives_the_units_and_what_was_in_force_at_each(built):
    vocabulary = Vocabulary.load(built / "shards")
    for sample in members(built, "speech").values():
        result = sample["json"]
        assert (result["pitch_rate"], result["style_rate"]) == (12.5, 1.0)
        utterance = read_utterance(sample, vocabulary)
        names = vocabulary.decode(speech_tokens(utterance))
        units, in_pitch, in_style = split(names[1:])
        kept, lengths = deduplicate(sample["units.npy"])
        assert units == kept.tolist()
        times = np.concatenate([[0], np.cumsum(lengths)[:-1]]) / utterance.unit_rate
        for loaded, rate, values in ((in_pitch, 12.5, "pitch.npy"), (in_style, 1.0, "style.npy")):
            places = np.minimum((times * rate + 1e-9).astype(int), len(sample[values]) - 1)
            assert loaded == sample[values][places].tolist()


def test_units_and_words_are_those_of_a_build_without_pitch_and_style(built, spoken_corpus, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(built, plain)
    config = wanted(spoken_corpus, pitch={"enabled": False}, style={"enabled": False})
    run_step("interleave", plain, config, LOCAL)
    vocabulary = Vocabulary.load(plain / "shards")
    assert (vocabulary.pitch, vocabulary.style) == (0, 0)
    one, other = members(plain, "interleaved"), members(built, "interleaved")
    assert one.keys() == other.keys()
    for name, sample in one.items():
        assert not {"pitch.npy", "style.npy"} & sample.keys()
        assert np.array_equal(sample["units.npy"], other[name]["units.npy"])
        assert sample["json"]["words"] == other[name]["json"]["words"]


def test_tokens_are_measured_from_the_mean_over_all_of_a_speakers_utterances(built):
    speakers = json.loads((built / "speakers.json").read_text())
    rows = [
        row
        for path in sorted((built / "manifest").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert speakers.keys() == {row["speaker"] for row in rows}
    measured = {
        row["id"]: row for row in prosody.read_rows(built, ["id", "speaker", "hertz", "voiced", "style"])
    }
    for speaker, result in speakers.items():
        own = [prosody.row_f0(row) for row in measured.values() if row["speaker"] == speaker]
        voiced = np.concatenate([f0.hertz[f0.voiced] for f0 in own])
        assert result["pitch_mean"] == pytest.approx(voiced.mean(dtype=float), rel=1e-6)
        assert result["utterances"] == len(own)
        assert result["style_share"] == min(1, result["style_seconds"] / 16)
    for path in sorted((built / "pitch").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            f0, mean = (
                prosody.row_f0(measured[row["id"]]),
                speakers[measured[row["id"]]["speaker"]]["pitch_mean"],
            )
            assert row["pitch"] == pitch.load().encode(f0, mean).tolist()


def test_each_table_has_the_rows_of_its_manifest_part(built):
    for path in sorted((built / "manifest").glob("*.parquet")):
        rows = pq.read_table(path)
        for table in ("prosody", "pitch", "style"):
            assert pq.read_table(built / table / path.name)["id"].to_pylist() == rows["id"].to_pylist()
        lengths = [len(loaded) for loaded in pq.read_table(built / "pitch" / path.name)["pitch"].to_pylist()]
        assert lengths == [(samples // 80 + 1) // 16 for samples in rows["samples"].to_pylist()]


def test_a_second_run_does_nothing_and_another_model_redoes_its_own_table(built, spoken_corpus, tmp_path):
    folder, config, engine = tmp_path / "copy", wanted(spoken_corpus), LOCAL
    shutil.copytree(built, folder)
    before = hashes(folder)
    for step in ("pitch", "style", "interleave"):
        assert run_step(step, folder, config, engine)["done"] == 0
    assert hashes(folder) == before
    loaded = style.load()
    other = style.StyleTokenizer(loaded.corpus_mean + 1, loaded.deviation, loaded.classifier, loaded.codebook)
    other.save(folder / "codebooks" / "style.safetensors")
    assert run_step("pitch", folder, config, engine)["done"] == 0
    assert run_step("style", folder, config, engine)["done"] > 0


def test_a_dry_run_shows_another_style_and_what_follows_alone(built, spoken_corpus, tmp_path):
    stands, _ = planned(built, wanted(spoken_corpus))
    assert list(stands) == [
        "ingest", "fit units", "units", "prosody", "pitch", "style", "align", "interleave"
    ]  # fmt: skip
    assert all(todo == 0 < standing for todo, standing in stands.values())
    loaded, other_model = style.load(), tmp_path / "other.safetensors"
    style.StyleTokenizer(loaded.corpus_mean + 1, loaded.deviation, loaded.classifier, loaded.codebook).save(
        other_model
    )
    changed, _ = planned(built, wanted(spoken_corpus, style={"enabled": True, "codebook": str(other_model)}))
    assert changed.pop("interleave") == "style"
    assert changed.pop("style") == (stands["style"][1], 0)
    assert changed.items() <= stands.items()


@pytest.mark.slow
def test_ten_recordings_more_of_known_speakers_redo_the_parts_they_are_in(built, spoken_corpus, tmp_path):
    folder, engine, lines = tmp_path / "copy", LOCAL, []
    shutil.copytree(built, folder)
    rows = [json.loads(line) for line in spoken_corpus.read_text().splitlines()]
    for row in [*rows, *({**row, "id": f"{row['id']}-more"} for row in rows[:10])]:
        places = {name: str(spoken_corpus.parent / row[name]) for name in ("audio", "alignment") if row[name]}
        lines.append(json.dumps({**row, **places}))
    (tmp_path / "more.jsonl").write_text("\n".join(lines))
    config = wanted(tmp_path / "more.jsonl")
    old, before = (
        sorted((folder / "manifest").glob("*.parquet")),
        json.loads((folder / "speakers.json").read_text()),
    )
    assert all(prosody.has_enough(speaker) for speaker in before.values())
    run_step("ingest", folder, config)
    fit_units(folder, config, engine)
    run_step("units", folder, config, engine)
    new, messages = sorted((folder / "manifest").glob("*.parquet")), []
    for table in ("pitch", "style"):
        done = run_step(table, folder, config, engine, messages.append)
        assert (done["done"], done["skipped"]) == (len(new) - len(old) + 1, len(old) - 1)
    assert json.loads((folder / "speakers.json").read_text()) == before
    assert "speakers: the means of 4 are kept, measured before the corpus changed" in messages[0]
    (folder / "speakers.json").unlink()
    done = run_step("pitch", folder, config, engine)
    assert done["done"] == len(new)


def test_the_means_of_who_was_hardly_heard_follow_the_recordings(built, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(built, folder)
    path, speakers = folder / "speakers.json", json.loads((built / "speakers.json").read_text())
    first, second, *_ = speakers
    speakers[first] |= {"pitch_mean": 99.0, "voiced_seconds": 15.9}
    speakers[second] |= {"pitch_mean": 99.0}
    path.write_text(json.dumps(speakers))
    prosody.write_speaker_means(make_run(folder, settings.read_settings(folder)))
    speakers[first] = json.loads((built / "speakers.json").read_text())[first]
    assert json.loads(path.read_text()) == speakers
    monkeypatch.setattr(prosody.MeasureProsody, "version", 99)
    prosody.write_speaker_means(make_run(folder, settings.read_settings(folder)))
    assert path.read_bytes() == (built / "speakers.json").read_bytes()


def test_pitch_and_style_can_be_fitted_on_the_build(built, spoken_corpus, tmp_path):
    folder, engine = tmp_path / "copy", LOCAL
    shutil.copytree(built, folder)
    config = wanted(
        spoken_corpus, pitch={"enabled": True, "steps": 2}, style={"enabled": True, "clusters": 20}
    )
    made = (
        prosody.fit_pitch(make_run(folder, config, engine)),
        prosody.fit_style(make_run(folder, config, engine)),
    )
    bytes_ = [path.read_bytes() for path in made]
    assert pitch.load(made[0]).provenance["steps"] == 2
    assert style.load(made[1]).codes == 20
    stamps = [path.stat().st_mtime_ns for path in made]
    assert (
        prosody.fit_pitch(make_run(folder, config, engine)),
        prosody.fit_style(make_run(folder, config, engine)),
    ) == made
    assert [path.stat().st_mtime_ns for path in made] == stamps
    for path in made:
        path.unlink()
    prosody.fit_pitch(make_run(folder, config, engine))
    prosody.fit_style(make_run(folder, config, engine))
    assert [path.read_bytes() for path in made] == bytes_
    run_step("pitch", folder, config, engine)
    run_step("style", folder, config, engine)
    run_step("interleave", folder, config, engine)
    assert Vocabulary.load(folder / "shards").style == 20


def test_recordings_that_cannot_be_used_keep_their_reason(spoken_corpus, tmp_path):
    manifest, reasons = bad_corpus(tmp_path / "bad", spoken_corpus)
    config = wanted(manifest, units={"clusters": 40, "fit_frames": 4000})
    summary = run_build(tmp_path / "build", config, LOCAL)
    assert summary["in"]["samples"] == summary["out"]["samples"] + summary["rejected"]["samples"]
    assert members(tmp_path / "build", "interleaved").keys() == {
        k for k, reason in reasons.items() if not reason
    }
    for table in ("prosody", "pitch", "style"):
        for path in (tmp_path / "build" / table).glob("*.parquet"):
            for row in pq.read_table(path).to_pylist():
                assert (row["reject"] is None) == (row["style" if table == "prosody" else table] is not None)


def test_voices_that_are_hard_to_follow_get_tokens_or_a_reason_from_the_commands(tmp_path):
    """Silence, whisper, a pure tone, clipping, 79 ms, octave jumps, by the lines a user types."""
    waves, lines = {name.replace(" ", "-"): wave for name, wave in odd().items()}, []
    for name, wave in waves.items():
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, wave, 16_000, subtype="FLOAT")
        lines.append(json.dumps({"id": name, "audio": str(path), "text": "one two", "lang": "en"}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    build = str(tmp_path / "build")
    for words in (
        ["ingest", "jsonl", str(tmp_path / "manifest.jsonl"), build],
        ["pitch", build],
        ["style", build],
    ):
        given = words if words[0] == "ingest" else [*words, "--engine", "local"]
        result = CliRunner().invoke(wordweave.cli, given)
        assert result.exit_code == 0, result.output
    rejects = {}
    for name, codes in (("pitch", 64), ("style", 100)):
        for row in rows_of(tmp_path / "build", name):
            rejects[row["id"]] = row["reject"]
            if row["reject"] is None:
                samples = len(waves[row["id"]])
                tokens = (samples // 80 + 1) // 16 if name == "pitch" else -(-samples // 16_000)
                assert len(row[name]) == tokens, row["id"]
                assert all(0 <= token < codes for token in row[name])
            else:
                assert row[name] is None
    assert {name: reject for name, reject in rejects.items() if reject} == {
        "nothing": "audio.empty",
        "one-sample": "audio.too_short",
        "79-ms": "audio.too_short",
    }


@pytest.mark.slow
def test_the_commands_fit_pitch_and_style_on_recorded_speech(real_speech, tmp_path):
    rows = [json.loads(line) for line in (real_speech / "dev" / "manifest.jsonl").read_text().splitlines()]
    rows = [
        {**row, "audio": str(real_speech / "dev" / row["audio"]), "alignment": None} for row in rows[:40:2]
    ]
    (tmp_path / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "fit.toml").write_text(
        f'[corpus]\nsource = "{tmp_path}/manifest.jsonl"\n'
        "[pitch]\nenabled = true\nsteps = 60\n[style]\nenabled = true\nclusters = 16\n"
    )
    build, rest = str(tmp_path / "build"), ["--config", str(tmp_path / "fit.toml")]
    for words in (
        ["ingest", "jsonl", str(tmp_path / "manifest.jsonl"), build],
        *(["fit", kind, build, "--engine", "local"] for kind in ("pitch", "style")),
        *([kind, build, "--engine", "local"] for kind in ("pitch", "style")),
    ):
        result = CliRunner().invoke(wordweave.cli, [*words, *rest])
        assert result.exit_code == 0, result.output
    tokens = {
        kind: [t for row in rows_of(tmp_path / "build", kind) for t in row[kind] or ()]
        for kind in ("pitch", "style")
    }
    assert len(set(tokens["pitch"])) >= 32  # dead codes are seeded again: a collapsed codebook uses a few
    assert len(set(tokens["style"])) >= 12


def test_a_missing_table_is_said_in_one_line(built, spoken_corpus, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(built, folder)
    shutil.rmtree(folder / "pitch")
    with pytest.raises(ValueError, match=r"pitch/part-00000.parquet: not finished; run `wordweave pitch"):
        run_step("interleave", folder, wanted(spoken_corpus), LOCAL)
    (folder / "codebooks" / "style.safetensors").write_bytes(b"broken")
    result = CliRunner().invoke(wordweave.cli, ["style", str(folder), "--engine", "local"])
    assert (result.exit_code, "Traceback" in result.output) == (1, False), result.output
    assert "style.safetensors" in result.output


def test_settings_of_pitch_and_style_are_checked():
    for section, changes in (
        ("pitch", {"steps": 0}),
        ("style", {"clusters": 1}),
        ("pitch", {"fit_hours": 0.0}),
    ):
        with pytest.raises(ValueError, match=section):
            settings.replace(settings.Settings(), section, **changes)


@pytest.mark.slow
def test_two_workers_of_beam_give_the_same_bytes(built, spoken_corpus, tmp_path):
    folder = tmp_path / "two"
    run_build(folder, wanted(spoken_corpus), BeamEngine(2))
    assert hashes(folder) == hashes(built)
    assert (folder / "speakers.json").read_bytes() == (built / "speakers.json").read_bytes()
