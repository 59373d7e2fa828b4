"""`wordweave plan`: the arithmetic by hand, and what it says of a corpus against a build of all of it."""

import dataclasses
import json
import math
import re
import sys

import pytest
import soundfile
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import wordweave
from pipelines import settings
from pipelines.operations.cost_estimate import Workers, lines, parts, predict, readable
from pipelines.operations.cost_measure import Cost, Measured, through

MEASURED = Measured(
    hours=0.1,
    utterances=36,  # of 10 s
    corpus_hours=0.5,
    work={"fit units": Cost(20.0), "units": Cost(36.0, 2.0), "align": Cost(72.0), "interleave": Cost(3.6)},
    driver={"ingest": Cost(0.36), "units": Cost(0.0, 1.0), "report": Cost(0.72)},
    kmeans=1e-4,
    tokenizer=0.5,
    frames=90_000,
    storage={"units": Cost(100_000.0, 2_000.0), "shards": Cost(6e6, 10_000.0)},
    recordings=50e6,
    decode=7.2,
    on_gpu=(),
    memory=1_000_000_000,
)
DEFAULT = settings.Settings()


def row(result, step):
    (found,) = [row for row in result["steps"] if row["step"] == step]
    return found


def test_bytes_and_hours_are_those_of_the_arithmetic():
    result = predict(MEASURED, DEFAULT, 1000.0, Workers(workers=10, speed=2.0, price=0.5))
    short = (
        32 * 2 + sum(range(32)) / 4 + 32 / 12
    )  # minutes in the first parts, of 2 to 9.75 and half an utterance
    assert result["parts"] == 32 + math.ceil((60_000 - short) / (10 + 1 / 12)) == 5964
    assert result["utterances"] == 360_000
    assert result["storage"]["units"] == 1000 * 100_000 + 5964 * 2_000
    assert result["shards"] == 3 * (math.ceil(0.95 * 360) + math.ceil(0.05 * 360))
    assert result["storage"]["shards"] == 1000 * 6e6 + result["shards"] * 10_000
    assert result["recordings_bytes"] == 1000 * 50e6
    units = row(result, "units")
    assert units["hours"] == pytest.approx((36.0 * 1000 + 2.0 * 10) / (10 * 2.0) / 3600)
    assert units["cost"] == pytest.approx(units["hours"] * 10 * 0.5)
    ingest = row(result, "ingest")  # the driver's own: no number of workers shortens it
    assert ingest["hours"] == pytest.approx(0.36 * 1000 / 2.0 / 3600)
    assert ingest["cost"] == pytest.approx(ingest["hours"] * 0.5)
    assert result["cost"] == pytest.approx(sum(step["cost"] for step in result["steps"]))


def test_drawing_frames_and_k_means_end_with_the_settings_not_with_the_corpus():
    result = predict(MEASURED, DEFAULT, 1000.0, Workers())
    assert row(result, "fit units")["hours"] == pytest.approx(20.0 * DEFAULT.units.fit_hours / 3600)
    assert row(result, "k-means")["hours"] == pytest.approx(1e-4 * DEFAULT.units.fit_frames / 3600)


def test_gpus_take_the_units_and_nothing_else():
    result = predict(
        MEASURED, DEFAULT, 1000.0, Workers(workers=10, price=1.0, gpus=2, real_time=500.0, gpu_price=3.0)
    )
    units = row(result, "units")
    assert units["hours"] == pytest.approx(1000 / 500 / 2)
    assert units["cost"] == pytest.approx(1000 / 500 * 3.0)
    assert row(result, "align")["hours"] == pytest.approx(72.0 * 1000 / 10 / 3600)
    assert result["settings"]["--decode_apart"] is False  # 500 x real time: one core decodes as fast
    fast = predict(MEASURED, DEFAULT, 1000.0, Workers(gpus=1, real_time=2500.0))
    assert fast["settings"]["--decode_apart"] is True


def test_a_store_costs_its_latency_for_each_part_and_for_recordings_that_are_not_ready_in_time():
    hours, count = 1000.0, 5964
    disk, near, slow = (
        predict(MEASURED, DEFAULT, hours, Workers(workers=10, latency=latency))
        for latency in (0.0, 0.001, 1.6)
    )

    def more(result, step):
        return (row(result, step)["hours"] - row(disk, step)["hours"]) * 3600 * 10

    assert more(near, "units") == pytest.approx(0.001 * 13 * count)  # recordings are decoded ahead
    computing = 36.0 * hours + 2.0 * 10
    assert more(slow, "units") == pytest.approx(1.6 * (13 * count + 3 * 360_000 / 16) - computing)
    assert more(slow, "align") == pytest.approx(1.6 * 13 * count)  # the same decode
    gpu = predict(MEASURED, DEFAULT, hours, Workers(latency=1.6, gpus=1, real_time=1000.0))
    assert row(gpu, "units")["hours"] == pytest.approx(1.6 * (13 * count + 3 * 360_000 / 16) / 3 / 3600)
    with pytest.raises(ValueError, match="no price, latency or real-time factor below 0"):
        Workers(latency=-1.0)


def test_parts_and_shards_are_said_for_the_settings_and_for_those_advised():
    result = predict(MEASURED, DEFAULT, 1000.0, Workers(workers=10))
    minutes, samples = (result["settings"][name] for name in ("corpus.part_minutes", "shards.samples"))
    assert minutes != DEFAULT.corpus.part_minutes
    advised = settings.replace(DEFAULT, "corpus", part_minutes=minutes)
    advised = settings.replace(advised, "shards", samples=samples)
    again = predict(MEASURED, advised, 1000.0, Workers(workers=10))
    assert result["advised"] == again["advised"] == {"parts": again["parts"], "shards": again["shards"]}
    assert f"with the settings to use {again['parts']:,} and {again['shards']:,}" in lines(result)[0]


def test_a_gpu_of_unknown_speed_is_refused():
    with pytest.raises(ValueError, match="--gpu-real-time"):
        predict(MEASURED, DEFAULT, 10.0, Workers(gpus=1))


@given(st.floats(0.1, 1e7), st.integers(1, 10_000), st.floats(0.1, 10))
def test_the_settings_advised_make_at_most_a_million_parts_and_enough_for_every_worker(hours, workers, speed):
    result = predict(MEASURED, DEFAULT, hours, Workers(workers=workers, speed=speed))
    minutes = result["settings"]["corpus.part_minutes"]
    count = parts(hours, hours * 360, minutes)
    assert count <= 1_050_000  # two digits of minutes
    if hours > 10 * workers:
        assert count >= 4 * workers


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_line_through_two_measurements_gives_both_back(few, more, slope, rest):
    low, high = (few, slope * few + rest), (few + more, slope * (few + more) + rest)
    line = through(low, high)
    assert line.of(few) == pytest.approx(low[1], rel=1e-6, abs=1e-3)
    assert line.of(few + more) == pytest.approx(high[1], rel=1e-6, abs=1e-3)


def test_the_table_shows_each_step_with_its_hours_and_cost_and_each_folder_with_its_bytes():
    estimate = predict(MEASURED, DEFAULT, 570_000.0, Workers(workers=500, price=0.04))
    cells = [re.split(r"  +", line.strip()) for line in lines(estimate)]
    for step in estimate["steps"]:
        assert [step["step"], step["who"], f"{step['hours']:,.4g}", f"{step['cost']:,.2f}"] in cells
    for folder, size in estimate["storage"].items():
        assert [folder, readable(size)] in cells
    assert len(estimate["steps"]) == 9
    assert ["total", f"{estimate['total_hours']:,.4g}", f"{estimate['cost']:,.2f}"] in cells


@pytest.mark.slow
def test_a_plan_from_a_sample_is_within_a_quarter_of_a_build_of_everything(spoken_corpus, tmp_path):
    """Bytes of every folder, the number of parts, and CPU time, which other work on the machine does not move."""
    from benchmarks.plan import compare
    from tests.helpers.builds import build_settings

    planned, made = compare(build_settings(spoken_corpus), tmp_path, 1.5)
    for name, held in made["bytes"].items():
        assert planned["bytes"][name] == pytest.approx(held, rel=0.25), name
    assert abs(planned["parts"] - made["parts"]) <= 1
    assert planned["seconds"] == pytest.approx(made["seconds"], rel=0.25)


@pytest.mark.slow
def test_a_plan_of_a_corpus_without_text_measures_the_recogniser_and_what_its_text_costs(
    spoken_corpus, tmp_path
):
    """With every step that is optional, but for cutting and voices; each row of the estimate as in the build."""
    from benchmarks.plan import compare
    from tests.helpers.builds import build_settings

    rows = [json.loads(line) for line in spoken_corpus.read_text().splitlines()]
    texts, lines = {}, []
    for one in rows:
        audio = spoken_corpus.parent / one["audio"]
        texts[round(soundfile.info(audio).duration * 16_000)] = one["text"]
        lines.append(json.dumps({"id": one["id"], "audio": str(audio)}))
    assert len(texts) == len(rows)  # their lengths name them
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    script = f"import sys, wave; print({texts}[wave.open(sys.argv[1]).getnframes()])"
    (tmp_path / "recogniser.py").write_text(script)
    command = f"{sys.executable} -I -S {tmp_path / 'recogniser.py'}"
    wanted = build_settings(
        tmp_path / "m.jsonl",
        transcribe={"enabled": True, "command": command},
        quality={"enabled": True},
        duplicates={"enabled": True},
    )
    planned, made = compare(wanted, tmp_path, 1.5)
    assert {"untranscribed", "quality", "hashes", "duplicates", "words"} <= set(planned["bytes"])
    for name in ("untranscribed", "words", "shards"):
        assert planned["bytes"][name] == pytest.approx(made["bytes"][name], rel=0.35), name
    assert planned["seconds"] == pytest.approx(made["seconds"], rel=0.35)


def test_a_recogniser_takes_gpus_by_its_own_measurement_or_as_the_encoder_gains():
    measured = dataclasses.replace(MEASURED, work={**MEASURED.work, "transcribe": Cost(720.0, 5.0)})
    model = settings.replace(DEFAULT, "transcribe", enabled=True, model="m")
    command = settings.replace(DEFAULT, "transcribe", enabled=True, command="c")
    gpus = Workers(workers=10, gpus=2, real_time=500.0, gpu_price=3.0)  # units: 100 times real time here

    def hours(measured, wanted, machines=gpus):
        result = predict(measured, wanted, 1000.0, machines)
        return row(result, "transcribe"), result["settings"].get("transcribe.device")

    faster, device = hours(measured, model)
    assert (faster["who"], device) == ("2 GPUs", "cuda")
    assert faster["hours"] == pytest.approx(720.0 / 5 * 1000 / 2 / 3600)
    assert faster["cost"] == pytest.approx(faster["hours"] * 2 * 3.0)
    on_gpu = dataclasses.replace(measured, on_gpu=("transcribe", "units"))
    assert hours(on_gpu, model)[0]["hours"] == pytest.approx(720.0 * 1000 / 2 / 3600)
    slower, device = hours(measured, command)  # a program of the user's own runs where it is
    assert (slower["who"], device) == ("10 workers", None)
    assert slower["hours"] == pytest.approx((720.0 * 1000 + 5 * 10) / 10 / 3600)
    assert hours(measured, model, Workers(workers=10))[0]["hours"] == pytest.approx(slower["hours"])


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--hours", "0"], "--hours"),
        (["--gpus", "1"], "--gpu-real-time"),
        (["--speed", "0"], "speed > 0"),
        ([], "corpus.source is empty"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused_before_anything_is_measured(words, answer, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('[corpus]\nsource = "gone.jsonl"\n' if words else "")
    result = CliRunner().invoke(wordweave.cli, ["plan", str(config), *words])
    assert result.exit_code == 2
    assert answer in result.output
    assert "Traceback" not in result.output
