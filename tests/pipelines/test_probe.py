"""Headers read by tasks: the manifest of headers read one by one, and only what changed is read again."""

import dataclasses
import io
import json

import numpy as np
import pytest
import soundfile
from fsspec.implementations.memory import MemoryFileSystem

from corpus import files
from corpus.adapters import ADAPTERS, Intake
from corpus.audio import decode, read_header
from corpus.manifest import read_part, utterances
from corpus.records import Reject
from pipelines.build import copy_small, make_run, run_step
from pipelines.engines.beam import BeamEngine
from pipelines.execution.task import FileWorker
from pipelines.settings import Settings, replace
from pipelines.steps import probe
from pipelines.steps.ingest import plan_ingest
from tests.helpers.builds import hashes

NOISE = np.random.default_rng(0).normal(0, 0.1, (160_000, 2))


@pytest.fixture
def source(tmp_path):
    """A manifest of 60 recordings, some of them not usable, with names that no file system or manifest can hold."""
    lines = []
    for number in range(60):
        channels = 2 if number % 20 == 7 else 1
        soundfile.write(tmp_path / f"{number}.wav", NOISE[: 8000 + number, :channels], 16_000)
        lines.append(
            {"id": f"u{number}", "audio": f"{number}.wav", "text": "they went out", "duration": None}
        )
    (tmp_path / "3.wav").unlink()
    (tmp_path / "4.wav").write_bytes((tmp_path / "4.wav").read_bytes()[:4000])
    lines[5]["duration"] = 2.0
    lines[6] |= {"start": 0.1, "end": 0.4}
    lines[8]["text"] = "\ud800"
    lines[9]["audio"] = "\ud800.wav"
    lines[10]["id"] = "u11"
    lines[12]["text"] = 3
    lines[13]["alignment"] = "13.TextGrid"
    (tmp_path / "13.TextGrid").write_text("x")
    path = tmp_path / "source.jsonl"
    path.write_text("no json\n" + "".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def chunks(monkeypatch):
    """Chunks of a few rows; the names of those that are measured."""
    for name, value in {"FEW": 5, "EVERY": 4, "FEWEST": 2, "MOST": 9}.items():
        monkeypatch.setattr(probe, name, value)
    made = []

    def make(self, build, task, temporary):
        made.append(task.output)
        return self.make(build, task, temporary)

    monkeypatch.setattr(
        probe.ProbeHeaders, "open", lambda self: FileWorker(self, lambda *given: make(self, *given))
    )
    return made


def settings_of(source, **corpus):
    return replace(Settings(), "corpus", source=str(source), **corpus)


def manifest_of(build):
    return {path.name: path.read_bytes() for path in sorted((build / "manifest").iterdir())}


@pytest.mark.parametrize("options", [{}, {"channels": "separate", "ids": "escape"}, {"checksum": True}])
def test_the_manifest_is_that_of_headers_read_one_by_one(source, tmp_path, monkeypatch, options):
    alone, together = [], []
    run_step("ingest", tmp_path / "alone", settings_of(source, **options), say=alone.append)
    for name, value in {"FEW": 5, "EVERY": 4, "FEWEST": 2, "MOST": 9}.items():
        monkeypatch.setattr(probe, name, value)
    run_step("ingest", tmp_path / "chunks", settings_of(source, **options), say=together.append)
    assert manifest_of(tmp_path / "chunks") == manifest_of(tmp_path / "alone")
    assert together == alone
    kept = list((tmp_path / "chunks" / probe.PROBED).glob("*.done"))
    assert bool(kept) != options.get("checksum", False)


def test_a_file_that_is_added_or_changed_makes_one_or_two_chunks_new(source, tmp_path, chunks):
    build, settings = tmp_path / "build", settings_of(source)
    run_step("ingest", build, settings)
    before = len(chunks)
    assert before > 8
    run_step("ingest", build, settings)
    # of the recordings that are missing it is not known when they come
    again = len(chunks) - before
    assert again <= 2
    soundfile.write(tmp_path / "30.wav", NOISE[:9000, 0], 16_000)
    lines = source.read_text().splitlines()
    soundfile.write(tmp_path / "new.wav", NOISE[:9000, 0], 16_000)
    lines.insert(50, json.dumps({"id": "new", "audio": "new.wav", "text": "and on"}))
    source.write_text("\n".join(lines))
    run_step("ingest", build, settings)
    assert 2 <= len(chunks) - before - again <= again + 4
    lengths = {
        one.id: one.frames
        for path in (build / "manifest").glob("part*")
        for one in utterances(read_part(path))
        if one
    }
    assert lengths["u30"] == lengths["new"] == 9000


def test_an_interrupted_run_is_resumed_and_leaves_no_listing(source, tmp_path, chunks, monkeypatch):
    build, settings = tmp_path / "build", settings_of(source)
    opened = probe.ProbeHeaders.open

    def fail(self):
        worker = opened(self)
        return FileWorker(self, lambda *given: 1 / 0 if len(chunks) == 6 else worker.make(*given))

    monkeypatch.setattr(probe.ProbeHeaders, "open", fail)
    with pytest.raises(ValueError, match=r"probe: .* tasks failed"):
        run_step("ingest", build, settings)
    monkeypatch.setattr(probe.ProbeHeaders, "open", opened)
    run_step("ingest", build, settings)
    assert len(chunks) == len(set(chunks))
    assert not list((build / probe.LISTED).glob("*"))


def test_a_dry_run_writes_nothing_into_the_build(source, tmp_path, chunks):
    build, settings = tmp_path / "build", settings_of(source)
    run_step("ingest", build, settings)
    before = hashes(build)
    soundfile.write(tmp_path / "30.wav", NOISE[:9000, 0], 16_000)
    copy_small(build, tmp_path / "work")
    plan = plan_ingest(dataclasses.replace(make_run(build, settings), work=tmp_path / "work"))
    assert len(plan.todo) == 1
    assert hashes(build) == before


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_a_header_behind_a_url_takes_few_small_requests(tmp_path, monkeypatch, kind):
    requests: list[int] = []
    read, info = MemoryFileSystem.cat_file, MemoryFileSystem.info

    def count(call, *given, **options):
        result = call(*given, **options)
        requests.append(len(result))
        return result

    monkeypatch.setattr(
        MemoryFileSystem, "cat_file", lambda *given, **options: count(read, *given, **options)
    )
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *given, **options: count(info, *given, **options))
    content = io.BytesIO()
    soundfile.write(content, np.tile(NOISE, (6, 1)), 16_000, format=kind)
    (tmp_path / "here").write_bytes(content.getvalue())
    files.to_path("memory://probe/recording").write_bytes(content.getvalue())
    requests.clear()
    header = read_header("memory://probe/recording")
    assert header[:4] == read_header(tmp_path / "here")[:4]
    assert len(requests) <= 6
    assert sum(requests) < 300_000 < len(content.getvalue())


def declared(tmp_path, **fields):
    soundfile.write(tmp_path / "a.wav", NOISE[:16_000, 0], 16_000)
    line = {"id": "u", "audio": "a.wav", "text": "hi", "frames": 16_000, "sample_rate": 16_000} | fields
    (tmp_path / "source.jsonl").write_text(json.dumps(line))
    return list(ADAPTERS["jsonl"](tmp_path / "source.jsonl", Intake(probe="declared")))


def test_declared_rows_are_taken_without_reading_a_header(tmp_path, monkeypatch):
    monkeypatch.setattr("corpus.adapters.jsonl.read_header", lambda path: pytest.fail("a header was read"))
    (row,) = declared(tmp_path)
    assert (row.frames, row.sample_rate, row.samples) == (16_000, 16_000, 16_000)
    assert (
        np.array_equal(decode(row), NOISE[:16_000, 0].astype(np.float32).round(4))
        or len(decode(row)) == 16_000
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"frames": 32_000}, "audio.truncated"),
        ({"frames": 8_000}, "audio.length_mismatch"),
        ({"sample_rate": 8_000}, "audio.length_mismatch"),
        ({"frames": 8_000, "start": 0.1, "end": 0.2}, "audio.length_mismatch"),
        ({"audio": "none.wav"}, "audio.missing"),
    ],
)
def test_a_row_that_declares_what_is_not_so_is_rejected_when_it_is_decoded(tmp_path, fields, reason):
    (row,) = declared(tmp_path, **fields)
    with pytest.raises(Reject) as caught:
        decode(row)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "fields", [{"frames": -1}, {"frames": "x"}, {"sample_rate": 1e9}, {"sample_rate": True}]
)
def test_a_declaration_that_cannot_be_is_rejected_at_once(tmp_path, fields):
    (row,) = declared(tmp_path, **fields)
    assert row.reject.reason in ("manifest.bad_field", "audio.unreadable")


def test_rows_without_a_declaration_are_measured_and_files_are_stamped(tmp_path):
    (row,) = declared(tmp_path, frames=None)
    assert row.audio_stamp == files.stamp(tmp_path / "a.wav")
    (row,) = declared(tmp_path)
    assert row.audio_stamp == f"declared=16000@16000 {files.stamp(tmp_path / 'a.wav')}"


@pytest.mark.slow
def test_the_manifest_is_the_same_on_beam(source, tmp_path, monkeypatch):
    run_step("ingest", tmp_path / "alone", settings_of(source))
    for name, value in {"FEW": 5, "EVERY": 4, "FEWEST": 2, "MOST": 9}.items():
        monkeypatch.setattr(probe, name, value)
    run_step("ingest", tmp_path / "beam", settings_of(source), BeamEngine(2))
    assert manifest_of(tmp_path / "beam") == manifest_of(tmp_path / "alone")
