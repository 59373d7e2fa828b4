"""A whole build on synthetic speech: nothing lost, nothing invented, the same bytes however it ran."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import CliRunner

import wordweave
from corpus.toml import write_toml
from pipelines import settings
from pipelines.build import run_step
from pipelines.engines.beam import BeamEngine
from tests.helpers.builds import LOCAL, build_command, build_settings, fit_units, hashes, members, run_build

ROOT = Path(__file__).resolve().parents[2]


def test_every_utterance_is_in_a_shard_or_in_the_rejects_and_the_samples_add_up(built, spoken_corpus):
    result = json.loads((built / "report" / "report.json").read_text())
    lines = (built / "report" / "rejects.jsonl").read_text().splitlines()
    rejected = {json.loads(line)["id"] for line in lines}
    rows = [json.loads(line) for line in spoken_corpus.read_text().splitlines()]
    for stream in ("interleaved", "speech"):
        samples = members(built, stream)
        assert samples.keys() | rejected == {row["id"] for row in rows}
        assert not samples.keys() & rejected
        assert sum(sample["json"]["samples"] for sample in samples.values()) == result["out"]["samples"]
    assert result["in"]["samples"] == result["out"]["samples"] + result["rejected"]["samples"]
    lengths = [soundfile.info(spoken_corpus.parent / row["audio"]) for row in rows]
    assert result["in"]["samples"] == sum(-(-info.frames * 16_000 // info.samplerate) for info in lengths)
    assert result["out"]["utterances"] >= 0.97 * len(rows)


def test_word_times_are_those_that_were_spoken(built, spoken_corpus):
    from praatio import textgrid

    errors = []
    for key, sample in members(built, "interleaved").items():
        grid = textgrid.openTextgrid(
            spoken_corpus.parent / "alignments" / f"{key}.TextGrid", includeEmptyIntervals=False
        )
        true = grid.getTier("words").entries
        assert len(true) == len(sample["json"]["words"])
        errors += [abs(word[2] - entry.start) for word, entry in zip(sample["json"]["words"], true)]
    assert np.mean(errors) < 0.040  # seconds; a pocketsphinx frame is 0.010


def test_the_units_in_a_shard_are_those_of_the_recording_encoded_alone(built, spoken_corpus):
    from corpus.adapters import read_jsonl
    from corpus.audio import decode
    from units import kmeans
    from units.encoders import load_encoder

    encoder, codebook = load_encoder("mfcc"), kmeans.load(built / "codebooks" / "units.safetensors")
    samples = members(built, "speech")
    for item in list(read_jsonl(spoken_corpus))[:6]:
        (features,) = encoder.encode([decode(item)])
        assert np.array_equal(codebook.assign(features), samples[item.id]["units.npy"])


def test_five_lines_of_plain_webdataset_read_a_shard(built, monkeypatch, capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = readme.split("## Read a shard")[1].split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) == 5
    shards = built / "shards"
    monkeypatch.chdir(built)
    Path("build").mkdir(exist_ok=True)
    if not Path("build/demo").exists():
        Path("build/demo").symlink_to(built)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the collector
        exec(compile(code, "README.md", "exec"), {})
    result = capsys.readouterr().out.splitlines()
    Path("build/demo").unlink()
    index = json.loads((shards / "index.json").read_text())
    assert len(result) == index["streams"]["interleaved"]["train"][0]["samples"]
    assert all(" words [" in line for line in result)


@pytest.mark.slow
def test_one_and_two_workers_and_a_plain_loop_give_the_same_bytes(built, spoken_corpus, tmp_path):
    for engine in (BeamEngine(1), BeamEngine(2)):
        folder = tmp_path / f"workers{engine.workers}"
        run_build(folder, build_settings(spoken_corpus), engine)
        assert hashes(folder) == hashes(built)


def gone(pattern: str, seconds: float = 60) -> bool:
    """Whether no process of that command line is left after a while."""
    for _ in range(int(seconds / 0.2)):
        if not subprocess.run(["pgrep", "-f", pattern], capture_output=True, check=False).stdout:
            return True
        time.sleep(0.2)
    return False


@pytest.mark.slow
def test_a_build_killed_at_random_moments_ends_with_the_bytes_of_an_unbroken_one(
    built, spoken_corpus, tmp_path
):
    config, folder = tmp_path / "x.toml", tmp_path / "build"
    config.write_text(write_toml(build_settings(spoken_corpus)))
    command = build_command(config, folder, "--workers", "2")
    draw, kills, status = random.Random(0), 0, None
    for moment in [
        *sorted(draw.uniform(2, 14) for _ in range(6)),
        300,
    ]:  # early ones first: it may be done in ten
        process = subprocess.Popen(
            command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            status = process.wait(moment)
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)  # the driver alone: its workers must leave by themselves
            process.wait()
            kills += 1
            assert gone(f"pipelines.engines.beam_forkserver {process.pid}")
    assert status == 0
    assert kills >= 2
    assert hashes(folder) == hashes(built)
    assert not list(folder.rglob(".*.tmp-*"))


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_one_line_and_the_next_run_finishes(built, spoken_corpus, tmp_path):
    config, folder = tmp_path / "x.toml", tmp_path / "build"
    config.write_text(write_toml(build_settings(spoken_corpus)))
    command = build_command(config, folder, "--workers", "2")
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    killed = False
    while process.poll() is None and not killed:
        finished = subprocess.run(
            ["pgrep", "-f", f"pipelines.engines.beam_forkserver {process.pid}"],
            capture_output=True,
            text=True,
            check=False,
        )
        pids = finished.stdout.split()
        if len(pids) > 1 and (folder / "units").is_dir():  # the parent of the workers, and a worker
            os.kill(int(pids[-1]), signal.SIGKILL)
            killed = True
        time.sleep(0.2)
    _, result = process.communicate(timeout=60)
    assert killed
    assert process.returncode == 1
    assert "a worker process died" in result
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    assert hashes(folder) == hashes(built)


def test_a_second_run_does_nothing_and_one_changed_setting_redoes_its_stage_and_what_follows(
    built, spoken_corpus, tmp_path
):
    folder = tmp_path / "copy"
    shutil.copytree(built, folder)
    config, engine = build_settings(spoken_corpus), LOCAL

    def done(config):
        run_step("ingest", folder, config)
        codebook = fit_units(folder, config, engine).stat().st_mtime_ns
        stages = (
            run_step("units", folder, config, engine),
            run_step("align", folder, config, engine),
            run_step("interleave", folder, config, engine),
        )
        return codebook, [stage["done"] for stage in stages]

    codebook, made = done(config)
    assert made == [0, 0, 0]
    assert hashes(folder) == hashes(built)
    again, made = done(settings.replace(config, "interleave", seed=7))
    assert (again, made[:2]) == (codebook, [0, 0])
    assert made[2] > 0
    _, made = done(settings.replace(config, "align", options={"minimum_score": -100.0}))
    assert made[0] == 0
    assert made[1] > 0


def test_two_runs_on_one_build_are_refused(tmp_path):
    from pipelines.execution.runner import build_lock

    with build_lock(tmp_path), build_lock(tmp_path):  # a build holds what its stages hold
        code = (
            "from pathlib import Path; from pipelines.execution.runner import build_lock;"
            f"build_lock(Path({str(tmp_path)!r})).__enter__()"
        )
        other = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert "another run works on this build" in other.stderr


def bad_corpus(folder: Path, good: Path) -> tuple[Path, dict[str, str | None]]:
    """A manifest with every bad input we know beside three good utterances, and the reason each must get."""
    rows = [json.loads(line) for line in good.read_text().splitlines()][:3]
    audio = folder / "audio"
    audio.mkdir(parents=True)
    lines: list[str] = []
    wanted: dict[str, str | None] = {}

    def add(name, reason, path="fine.flac", text="they went out together", **more):
        lines.append(json.dumps({"id": name, "audio": f"audio/{path}", "text": text, "lang": "en", **more}))
        wanted[name] = reason

    for row in rows:
        lines.append(json.dumps({**row, "audio": str(good.parent / row["audio"]), "alignment": None}))
        wanted[row["id"]] = None
    wave, rate = soundfile.read(good.parent / rows[0]["audio"], dtype="float32")
    text = rows[0]["text"]
    soundfile.write(audio / "fine.flac", wave, rate)
    (audio / "noise.wav").write_bytes(random.Random(0).randbytes(5000))
    (audio / "empty.wav").write_bytes(b"")
    soundfile.write(audio / "none.wav", wave[:0], rate)
    soundfile.write(audio / "whole.wav", wave, rate)
    (audio / "cut.wav").write_bytes((audio / "whole.wav").read_bytes()[:30_000])
    (audio / "cut.flac").write_bytes((audio / "fine.flac").read_bytes()[:30_000])
    soundfile.write(audio / "short.wav", wave[: rate // 10], rate)
    soundfile.write(audio / "long.wav", np.tile(wave, 20), rate)
    soundfile.write(
        audio / "nan.wav", np.where(np.arange(len(wave)) == 5000, np.nan, wave), rate, subtype="FLOAT"
    )
    soundfile.write(audio / "silent.wav", np.zeros_like(wave), rate)
    (audio / "folder.wav").mkdir()
    add("unreadable", "audio.unreadable", "noise.wav")
    add("zero-bytes", "audio.empty", "empty.wav")
    add("zero-samples", "audio.empty", "none.wav")
    add("cut-wav", "audio.truncated", "cut.wav")
    add("cut-flac", "audio.truncated", "cut.flac")
    add("short", "audio.too_short", "short.wav")
    add("long", "audio.too_long", "long.wav")
    add("gone", "audio.missing", "gone.wav")
    add("a-folder", "audio.missing", "folder.wav")
    add("nan", "audio.not_finite", "nan.wav")
    add("silence", "align.unalignable", "silent.wav", text)
    add("empty-text", "text.empty", text="  ")
    add("no-words", "text.empty", text="?! ...")
    add("null-text", "text.missing", text=None)
    add("german", "align.language", text="sie gingen zusammen aus", lang="de")
    add("cyrillic", "align.out_of_vocabulary", text="они вышли вместе")
    add("typed", "manifest.bad_field", text=["they", "went"])
    for name in ("dot.ted", "../outside", "sla/sh", "sp ace", ".."):
        add(name, "id.unsafe", text=text)
    lines.append(lines[0])
    lines += ["{not json", "[1, 2]", json.dumps({"id": "no-audio"})]
    wanted |= {
        f"manifest.jsonl:{len(lines) - 2}": "manifest.not_json",
        f"manifest.jsonl:{len(lines) - 1}": "manifest.not_json",
    }
    wanted["no-audio"] = "manifest.missing_field"
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "manifest.jsonl", wanted


def test_bad_input_becomes_a_reject_with_its_reason_and_stops_nothing(spoken_corpus, tmp_path):
    manifest, wanted = bad_corpus(tmp_path / "bad", spoken_corpus)
    outside = {path for path in tmp_path.rglob("*") if "build" not in path.parts}
    result = run_build(
        tmp_path / "build", build_settings(manifest, units={"clusters": 50, "fit_frames": 5000}), LOCAL
    )
    rejects = [
        json.loads(line) for line in (tmp_path / "build/report/rejects.jsonl").read_text().splitlines()
    ]
    reasons = {row["id"]: row["reason"] for row in rejects if row["reason"] != "id.duplicate"}
    assert reasons == {name: reason for name, reason in wanted.items() if reason}
    assert [row["reason"] for row in rejects].count("id.duplicate") == 1
    assert members(tmp_path / "build", "interleaved").keys() == {
        name for name, reason in wanted.items() if not reason
    }
    assert (
        result["in"]["utterances"]
        == result["out"]["utterances"] + result["rejected"]["utterances"]
        == len(wanted) + 1
    )
    assert result["in"]["samples"] == result["out"]["samples"] + result["rejected"]["samples"]
    assert all(row["detail"] and "\n" not in row["detail"] for row in rejects)
    assert {path for path in tmp_path.rglob("*") if "build" not in path.parts} == outside


def test_recordings_without_usable_words_stay_in_the_speech_stream_when_asked(spoken_corpus, tmp_path):
    manifest, wanted = bad_corpus(tmp_path / "bad", spoken_corpus)
    config = build_settings(
        manifest, units={"clusters": 50, "fit_frames": 5000}, corpus={"keep_unaligned": True}
    )
    summary = run_build(tmp_path / "build", config, LOCAL)
    kept = {
        name
        for name, reason in wanted.items()
        if reason in (None, "text.missing") or (reason or "").startswith("align")
    }
    assert members(tmp_path / "build", "speech").keys() == kept
    assert members(tmp_path / "build", "interleaved").keys() == {
        name for name, reason in wanted.items() if not reason
    }
    assert summary["speech_alone"]["utterances"] == len(kept) - 3
    assert summary["in"]["samples"] == sum(
        summary[kind]["samples"] for kind in ("interleaved", "speech_alone", "rejected")
    )


def test_unsafe_ids_can_be_kept_under_safe_keys(spoken_corpus, tmp_path):
    manifest, _ = bad_corpus(tmp_path / "bad", spoken_corpus)
    run_build(
        tmp_path / "build",
        build_settings(manifest, units={"clusters": 50, "fit_frames": 5000}, corpus={"ids": "escape"}),
        LOCAL,
    )
    kept = members(tmp_path / "build", "interleaved")
    assert kept["=2E=2E=2Foutside"]["json"]["source_id"] == "../outside"
    assert {"dot=2Eted", "sla=2Fsh", "sp=20ace", "=2E=2E"} <= kept.keys()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["build", "nothing.toml"], "'nothing.toml' does not exist"),
        (
            ["build", "{config}", "--source", "gone.jsonl", "--build", "b"],
            "no such file or folder gone.jsonl",
        ),
        (["build", "{config}"], "build is empty; set it there or give --build"),
        (["ingest", "csv", ".", "b"], "'csv' is not one of 'jsonl', 'table'"),
        (["units", "nowhere", "--workers", "0"], "0 is not in the range x>=1"),
        (["units", "b", "--engine", "dask"], "need one of beam, local, spark, got 'dask'"),
        (["train", "b", "--config", "{config}"], "unknown keys 'align', 'build', 'corpus'"),
    ],
)
def test_bad_usage_is_one_clear_line_and_exit_code_2(words, line, tmp_path, monkeypatch):
    config = tmp_path / "config.toml"
    config.write_text((ROOT / "config" / "corpus.toml").read_text())
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(wordweave.cli, [word.format(config=config) for word in words])
    assert (result.exit_code, line in result.output, "Traceback" in result.output) == (2, True, False), (
        result.output
    )
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["units", "nowhere"], "no finished manifest here; run `wordweave ingest` first"),
        (["report", "nowhere"], "no build here"),
        (["show", "nowhere"], "need shards, got none"),
        (["train", "nowhere"], "need shards, got none"),
        (["generate", "nowhere"], "nowhere"),
        (["verify", "nowhere"], "nowhere"),
    ],
)
def test_a_build_that_is_not_there_is_one_clear_line_and_exit_code_1(words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(wordweave.cli, words)
    assert (result.exit_code, "Traceback" in result.output) == (1, False), result.output
    assert line in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_stages_in_their_order_are_told_when_one_is_missing(spoken_corpus, tmp_path):
    config = build_settings(spoken_corpus)
    run_step("ingest", tmp_path, config)
    for step, line in (
        ("units", "run `wordweave fit units"),
        ("interleave", "run `wordweave units"),
    ):
        with pytest.raises(ValueError, match=line):
            run_step(step, tmp_path, config)


def test_each_part_table_has_the_rows_of_its_manifest_part(built):
    for path in sorted((built / "manifest").glob("*.parquet")):
        ids = pq.read_table(path)["id"].to_pylist()
        for table in ("units", "words"):
            assert pq.read_table(built / table / path.name)["id"].to_pylist() == ids


def test_the_front_door_prints_one_line_of_json(built):
    result = CliRunner().invoke(wordweave.cli, ["report", str(built), "--json"])
    assert result.exit_code == 0
    answer = json.loads(result.stdout.strip().splitlines()[-1])
    assert answer["utterances_in"] == answer["utterances_out"] + answer["utterances_rejected"] == 24


def test_given_word_times_go_into_the_shard_as_they_are(spoken_corpus, tmp_path):
    from praatio import textgrid

    config = build_settings(spoken_corpus, align={"backend": "given", "options": {}}, units={"clusters": 50})
    run_build(tmp_path, config, LOCAL)
    kept = members(tmp_path, "interleaved")
    assert len(kept) == 24
    for key, sample in kept.items():
        path = spoken_corpus.parent / "alignments" / f"{key}.TextGrid"
        true = textgrid.openTextgrid(path, includeEmptyIntervals=False).getTier("words").entries
        assert [word[2:4] for word in sample["json"]["words"]] == [[entry.start, entry.end] for entry in true]


def test_any_hubert_directory_and_layer_makes_units(spoken_corpus, tmp_path):
    import torch
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 3}
    front = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    HubertModel(HubertConfig(**shape, **front)).save_pretrained(tmp_path / "hubert")
    units = {"encoder": str(tmp_path / "hubert"), "layer": 2, "clusters": 60}
    run_build(tmp_path / "build", build_settings(spoken_corpus, units=units), LOCAL)
    sample = next(iter(members(tmp_path / "build", "speech").values()))
    assert (sample["json"]["unit_rate"], sample["json"]["unit_hop"]) == (50.0, 320)
    assert len(sample["units.npy"]) == (sample["json"]["samples"] - 400) // 320 + 1
    codebook = str(tmp_path / "build" / "codebooks" / "units.safetensors")
    other = build_settings(spoken_corpus, units={**units, "layer": 1, "codebook": codebook})
    with pytest.raises(ValueError, match="layer"):  # a codebook of one layer refuses the features of another
        fit_units(tmp_path / "build", other, LOCAL)


def test_a_tokenizer_of_the_users_own_is_taken_as_it_is(built, spoken_corpus, tmp_path):
    from shards.vocabulary import Vocabulary

    shutil.copytree(built, tmp_path / "build")
    (tmp_path / "tokenizer").mkdir()
    shutil.copy(built / "shards" / "tokenizer.json", tmp_path / "tokenizer")
    special = {"bos_token": "</s>", "eos_token": None}
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(special))
    config = build_settings(spoken_corpus, text={"tokenizer": str(tmp_path / "tokenizer")})
    run_step("interleave", tmp_path / "build", config, LOCAL)
    vocabulary = Vocabulary.load(tmp_path / "build" / "shards")
    assert (vocabulary.bos, vocabulary.eos) == (1, None)
    assert vocabulary.hash != Vocabulary.load(built / "shards").hash
    sample = next(iter(members(tmp_path / "build", "interleaved").values()))
    assert sample["tokens.npy"][0] == 1
    assert sample["json"]["vocabulary"] == vocabulary.hash


def test_text_documents_make_the_text_stream_longer_and_bad_ones_are_counted_out(spoken_corpus, tmp_path):
    (tmp_path / "good.txt").write_text("They went out together.\n\nThe boat was small.\n")
    (tmp_path / "mixed.jsonl").write_text(
        '{"text": "Once more."}\n{"title": "none"}\nnot json\n{"text": "..."}\n'
    )
    documents = [str(tmp_path / "good.txt"), str(tmp_path / "mixed.jsonl")]
    config = build_settings(spoken_corpus, text={"documents": documents}, units={"clusters": 50})
    run_build(tmp_path / "build", config, LOCAL)
    kept = members(tmp_path / "build", "text")
    texts = [sample["json"]["text"] for key, sample in kept.items() if "synth" not in key]
    assert sorted(texts) == ["Once more.", "The boat was small.", "They went out together."]
    assert len(kept) == len(members(tmp_path / "build", "interleaved")) + 3


@pytest.mark.parametrize("strategy", ["poisson", "binomial", "word", "concatenated", "continuation", "none"])
def test_every_strategy_builds_shards_that_verify(built, spoken_corpus, tmp_path, strategy):
    from shards.verify import verify

    shutil.copytree(built, tmp_path / "build")
    run_step(
        "interleave",
        tmp_path / "build",
        build_settings(spoken_corpus, interleave={"strategy": strategy}),
        LOCAL,
    )
    assert verify(tmp_path / "build") == []


def test_a_corpus_without_one_usable_utterance_is_one_line_that_counts_the_reasons(tmp_path):
    (tmp_path / "manifest.jsonl").write_text('{"id": "a", "audio": "gone.wav", "text": "hi"}\nnot json\n')
    words = ["build", str(ROOT / "config" / "corpus.toml"), "--source", str(tmp_path / "manifest.jsonl")]
    result = CliRunner().invoke(wordweave.cli, [*words, "--build", str(tmp_path / "build")])
    assert result.exit_code == 1
    assert "2 rejected (audio.missing 1, manifest.not_json 1)" in result.output.strip().splitlines()[-1]
