"""What is measured of an alignment, what a build may ask of it, and how far two aligners are apart."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import wordweave
from aligners.quality import MEASURES, agreement, check_limits, differences, judge, measure
from corpus.records import SAMPLE_RATE, Word
from pipelines import settings as toml
from pipelines.build import run_step


def test_measures_are_those_of_a_case_counted_by_hand():
    wave = np.full(3 * SAMPLE_RATE, 0.001, np.float32)
    words = [Word("Hi", 0.5, 1.0, "hi", 0.9), Word("$2", 2.0, 2.4, "two dollars", 0.4)]
    for word in words:
        wave[round(word.start * SAMPLE_RATE) : round(word.end * SAMPLE_RATE)] = 0.1
    phones = [(0.5, 0.53), (0.53, 0.56), (0.56, 1.0), (2.0, 2.03), (2.03, 2.4)]
    measures = measure(words, phones, wave)
    assert measures == {
        "words_per_second": pytest.approx(2 / 3),
        "letters_per_second": pytest.approx(12 / 0.9),
        "speech_fraction": pytest.approx(0.3),
        "leading_silence": 0.5,
        "trailing_silence": pytest.approx(0.6),
        "longest_silence": 1.0,
        "longest_word": 0.5,
        "mean_confidence": pytest.approx(0.65),
        "lowest_confidence": 0.4,
        "short_phones": 0.6,
        "short_run": 2.0,
        "snr": pytest.approx(40, abs=1e-3),
        "uncovered_seconds": 0.0,
        "uncovered_share": 0.0,
    }
    assert measures.keys() < MEASURES.keys()


def test_what_cannot_be_measured_is_left_out():
    measures = measure([Word("hi", 0.0, 1.0)], None, np.ones(SAMPLE_RATE, np.float32))
    assert not measures.keys() & {"snr", "mean_confidence", "short_phones"}


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"speach_fraction": [0, 1]}, "unknown measure; known: .*speech_fraction"),
        ({"snr": [1]}, r"need \[min, max\]"),
        ({"snr": [2, 1]}, "min <= max"),
        ({"snr": ["a", "b"]}, "need"),
        ({"snr": 3}, "need"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(limits, complaint):
    with pytest.raises(ValueError, match=f"align.limits.*{complaint}"):
        check_limits(limits, ())


def test_a_limit_holds_from_bound_to_bound_and_asks_for_its_measure():
    limits = {"snr": (10, 20)}
    assert [judge({"snr": snr}, limits) is None for snr in (9.9, 10, 20, 20.1)] == [False, True, True, False]
    assert "was not measured" in judge({}, limits).detail


def test_the_distance_of_two_alignments_is_theirs_by_hand():
    one = [Word("a", 0.0, 1.0), Word("b", 1.0, 2.0)]
    two = [Word("a", 0.01, 1.03), Word("b", 1.03, 2.0)]
    assert differences(one, two) == pytest.approx([20, 15])
    assert agreement(one, two) == pytest.approx(20)


@pytest.fixture(scope="module")
def ingested(spoken_corpus, tmp_path_factory):
    """A build of four utterances; the fourth has the transcript of another."""
    rows = [json.loads(line) for line in spoken_corpus.read_text().splitlines()[:4]]
    for row in rows:
        row["audio"] = str(spoken_corpus.parent / row["audio"])
        row["alignment"] = str(spoken_corpus.parent / row["alignment"])
    source = tmp_path_factory.mktemp("source") / "manifest.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    build = tmp_path_factory.mktemp("build")
    run_step("ingest", build, toml.replace(toml.Settings(), "corpus", source=str(source)))
    return build


def words_table(build):
    return pa.concat_tables([pq.read_table(path) for path in sorted((build / "words").glob("*.parquet"))])


def align(build, *words):
    return CliRunner().invoke(wordweave.cli, ["align", str(build), "--engine", "local", *words])


def test_a_second_aligner_says_how_far_it_is_from_the_first(ingested):
    done = align(ingested, "--second-backend", "given")
    assert done.exit_code == 0, done.output
    table = words_table(ingested).to_pylist()
    for row in table:
        apart = [word["apart_ms"] for word in row["words"]]
        assert all(0 <= distance < 300 for distance in apart)
        assert 0 < json.loads(row["quality"])["agreement_ms"] < 25
    assert toml.read_settings(ingested).align.second_backend == "given"


def test_limits_reject_what_lies_outside_and_say_so(ingested):
    limits = {"agreement_ms": [0.0, 1e-3]}
    settings = toml.replace(toml.read_settings(ingested), "align", second_backend="given", limits=limits)
    with pytest.raises(
        ValueError, match=r"align: need a usable utterance, got 4 rejected as align.low_quality, .*_ms"
    ):
        run_step("align", ingested, settings)
    table = words_table(ingested).to_pylist()
    assert {row["reject"] for row in table} == {"align.low_quality"}
    assert all("agreement_ms" in row["detail"] and row["words"] is None for row in table)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--mfa-command", "x"], "no aligner is mfa"),
        (["--second-backend", "gentle"], "'gentle' is not one of"),
    ],
)
def test_options_that_do_not_fit_are_bad_usage(ingested, words, complaint):
    done = align(ingested, *words)
    assert done.exit_code == 2
    assert complaint in done.output


def test_agreement_without_a_second_aligner_is_refused(ingested):
    limits = {"agreement_ms": [0.0, 50.0]}
    settings = toml.replace(toml.read_settings(ingested), "align", second_backend="", limits=limits)
    with pytest.raises(ValueError, match="needs a second aligner"):
        run_step("align", ingested, settings)
