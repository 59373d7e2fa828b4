"""The step `quality`, the filters of a build, and the preview of what they drop."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import wordweave
from corpus import files
from corpus.quality import MEASURES, measured_names
from corpus.toml import write_toml
from pipelines import settings
from pipelines.build import build, dry_run, run_step, run_to
from pipelines.engines.beam import BeamEngine
from pipelines.operations.preview import preview
from pipelines.settings import QualitySettings, StyleSettings
from shards.write import STREAMS
from tests.golden import tiny_settings
from tests.helpers.browser import open_browser
from tests.helpers.builds import members

FILTERS = {"minimum": {"bandwidth": 5000.0}, "maximum": {"clipping": 0.1, "aligner_confidence": 0.1}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny build with filters; two of its recordings were recorded at 8 kHz or clipped, one is gone."""
    folder = tmp_path_factory.mktemp("quality")
    wanted = tiny_settings(folder)
    audio = folder / "corpus"
    wave, _ = soundfile.read(audio / "1.wav")
    soundfile.write(audio / "1.wav", np.repeat(wave[::2], 2), 16_000)
    wave, _ = soundfile.read(audio / "2.wav")
    soundfile.write(audio / "2.wav", np.clip(wave, -0.2, 0.2), 16_000)
    wanted = dataclasses.replace(
        wanted,
        build=str(folder / "build"),
        pitch=settings.PitchSettings(),
        style=StyleSettings(),
        quality=QualitySettings(enabled=True, **FILTERS),
    )
    return wanted, build(folder / "build", wanted)["report"]


def tables(folder, name):
    return [
        row
        for path in sorted((folder / name).glob("*.parquet"))
        for row in files.read_table(path).to_pylist()
    ]


def folder_of(wanted):
    return files.to_path(wanted.build)


def test_every_utterance_has_its_measures_and_filters_reject_with_their_reasons(made):
    wanted, report = made
    rows = tables(folder_of(wanted), "quality")
    assert set(measured_names(dnsmos=False)) < rows[0].keys()
    assert rows[1]["bandwidth"] == 4000
    assert {row["text_language"] for row in rows} == {"en"}
    reasons = {row["id"]: row["reason"] for row in tables(folder_of(wanted), "outcomes")}
    assert reasons == {
        "u0": None, "u1": "quality.bandwidth", "u2": "quality.clipping", "u3": None, "u4": None, "u5": None,
    }  # fmt: skip
    assert report["in"]["samples"] == report["out"]["samples"] + report["rejected"]["samples"]


def test_the_measures_are_in_every_sample_of_an_utterance_and_on_its_page(made):
    folder = folder_of(made[0])
    names = (*measured_names(dnsmos=False), "text_language")
    rows = {row["id"]: {name: row[name] for name in names} for row in tables(folder, "quality")}
    known = {
        id: {name: value for name, value in row.items() if value is not None} for id, row in rows.items()
    }
    assert any(value is None for row in rows.values() for value in row.values())  # these are not in samples
    for stream in STREAMS:
        records = {key: sample["json"] for key, sample in members(folder, stream).items()}
        spoken = {
            key: record["quality"] for key, record in records.items() if record["samples"] or key in known
        }
        assert spoken == {key: known[key] for key in ("u0", "u3", "u4", "u5")}
        assert not any("quality" in record for key, record in records.items() if key not in known)
    details = [path.read_text() for path in (folder / "report" / "data").glob("0*.js")]
    details = [json.loads(text.partition(", ")[2].rstrip(";)\n")) for text in details]
    shown = {detail["id"]: {name: value for name, value, *_ in detail["quality"]} for detail in details}
    assert shown == {id: known[id] for id in shown}
    assert {"u0", "u1"} <= shown.keys()


@pytest.mark.slow
def test_a_browser_shows_the_measures_with_unit_and_meaning(made):
    with open_browser() as browser:
        browser.open(f"file://{folder_of(made[0])}/report/index.html#utterance=u0")
        browser.wait("document.querySelector('details')")
        rows = browser.run("""
            const all = [...document.querySelectorAll("details")];
            const details = all.find(one => one.textContent.startsWith("Quality"));
            details.open = true;
            await new Promise(done => setTimeout(done, 100));
            return [...details.querySelectorAll('tbody tr')].map(row => [...row.cells].map(cell => cell.textContent));
        """)
        assert browser.problems() == []
    assert [row[0] for row in rows][:3] == ["clipping", "dc_offset", "bandwidth"]
    assert [row[2:] for row in rows if row[0] == "bandwidth"] == [["Hz", MEASURES["bandwidth"].meaning]]
    assert [row[1] for row in rows if row[0] == "text_language"] == ["en"]


def test_the_preview_counts_to_the_sample_what_the_build_drops(made):
    wanted, report = made
    run = run_to("quality", folder_of(wanted), wanted)
    result = preview(run)
    assert result["dropped"]["samples"] == report["rejected"]["samples"]
    assert result["kept"]["samples"] == report["out"]["samples"]
    dropped = {one["measure"]: one for one in result["filters"]}
    assert dropped["bandwidth"]["samples"] == report["reasons"]["quality.bandwidth"]["samples"]
    assert [one["id"] for one in dropped["bandwidth"]["examples"]] == ["u1"]
    assert dropped["aligner_confidence"]["utterances"] == 0
    assert dropped["clipping"]["alone"]["utterances"] == 1
    hours = sum(result["measures"]["bandwidth"]["hours"])
    assert hours == pytest.approx(result["in"]["hours"])


def test_other_bounds_measure_nothing_again_and_change_the_shards(made, tmp_path):
    wanted, _ = made
    shutil.copytree(folder_of(wanted), tmp_path / "build")
    assert not any(plan.todo for plan in dry_run(tmp_path / "build", wanted))
    other = settings.replace(wanted, "quality", minimum={})
    plans = {plan.stage: plan for plan in dry_run(tmp_path / "build", other)}
    assert not plans["quality"].todo
    assert plans["interleave"].todo


def test_the_preview_is_a_command_that_drops_nothing(made, tmp_path):
    wanted, _ = made
    loose = settings.replace(wanted, "quality", minimum={"words_per_second": 9.0}, maximum={})
    (tmp_path / "c.toml").write_text(write_toml(dataclasses.replace(loose, build=str(tmp_path / "build"))))
    result = CliRunner().invoke(
        wordweave.cli, ["preview", str(tmp_path / "c.toml"), "--engine", "local", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert "words_per_second at least 9" in result.stderr
    assert "u0  4  3.0 s  they went out" in result.stderr or "u1  4  3.0 s  went out" in result.stderr
    numbers = json.loads(result.stdout.splitlines()[-1])
    assert numbers["hours_dropped"] == numbers["hours_in"]
    assert not (tmp_path / "build" / "outcomes").exists()


@pytest.mark.slow
def test_the_bytes_are_the_same_on_beam(made, tmp_path):
    wanted, _ = made
    for step in ("ingest", "quality"):
        run_step(step, tmp_path, wanted, BeamEngine(workers=2))
    names = sorted(path.name for path in (tmp_path / "quality").glob("*.parquet"))
    for name in names:
        assert (tmp_path / "quality" / name).read_bytes() == (
            folder_of(wanted) / "quality" / name
        ).read_bytes()


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"minimum": {"snrr": 3.0}, "enabled": True}, r"quality: unknown measure 'snrr'; known: clipping"),
        ({"minimum": {"snr": 3.0}}, r"quality: a filter on snr needs enabled = true"),
        ({"minimum": {"dnsmos_overall": 3.0}, "enabled": True}, r"needs dnsmos = true"),
        (
            {"minimum": {"snr": 3.0}, "maximum": {"snr": 2.0}, "enabled": True},
            r"quality: snr: need minimum <= maximum",
        ),
    ],
)
def test_a_filter_that_cannot_work_is_named(section, line):
    with pytest.raises(ValueError, match=line):
        QualitySettings(**section)
