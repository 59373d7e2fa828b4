"""The scoreboard: what is read from each kind of results, and what is shown beside it."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

import wordweave
from lm.evaluation.published_scores import Score, own_scores, published_scores, read_scores, scoreboard

ACCURACY = {"ending.sum.free": [70.0, 60.0, 80.0], "ending.mean.free": [65.0, 55.0, 75.0]}
EVALUATION = {
    "format": "wordweave evaluation",
    "model": {"directory": "model"},
    "rows": [
        {"testset": "tstorycloze", "version": "2 test", "direction": "S", "accuracy": ACCURACY},
        {"testset": "stories", "version": "2", "direction": "S", "accuracy": ACCURACY},
        {"testset": "salmon", "version": "2 test", "direction": "S", "accuracy": ACCURACY,
         "groups": {"rir_consistency": {**ACCURACY, "items": 200}}},
        {"testset": "librispeech", "task": "tts", "direction": "T->S", "measure": "CER", "not_run": "needs a vocoder"},
    ],
}  # fmt: skip
UNITS = {
    "encoders": ["mfcc"], "data": "discophon eng-test",
    "rows": [{"encoder": "mfcc", "codebook": "fitted, 501", "abx_within": 0.1, "abx_across": 0.3, "bitrate": 214.0}],
}  # fmt: skip
HARNESS = {
    "results": {
        "mmlu": {"acc,none": 0.25, "acc_stderr,none": 0.01, "alias": "mmlu"},
        "wikitext": {"word_perplexity,none": 31.5, "word_perplexity_stderr,none": "N/A"},
    },
    "n-shot": {"mmlu": 5, "wikitext": 0},
    "model_name": "exported",
}  # fmt: skip


def written(tmp_path, results):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    return path


def test_an_evaluation_is_compared_with_the_same_data_and_with_other_data(tmp_path):
    scores = read_scores(written(tmp_path, EVALUATION))
    assert [(s.task, s.measure, s.value, s.data) for s in scores] == [
        ("tstorycloze", "sum", 70.0, "tstorycloze"),
        ("tstorycloze", "mean", 65.0, "tstorycloze"),
        ("tstorycloze", "sum", 70.0, "other data: synthetic analogue of tstorycloze"),
        ("tstorycloze", "mean", 65.0, "other data: synthetic analogue of tstorycloze"),
        ("salmon", "sum", 70.0, "salmon"),
        ("salmon", "mean", 65.0, "salmon"),
        ("salmon", "rir_consistency", 70.0, "salmon"),
    ]
    same = scoreboard(scores[:2])
    assert (
        "| | Spirit LM Base 7B | 69.2 | same data: tstorycloze | Spirit LM, arXiv:2402.05755v2, table 4, 10 |"
        in same
    )
    assert "| | Slam 358M, scaled | 84.2 | same data: tstorycloze | github.com/slp-rl/slamkit" in same
    assert "| | Spirit LM Base 7B | 69.2 | other data: tstorycloze" in scoreboard(scores[2:4])
    assert "| | people | 94.4 | same data: salmon" in scoreboard(scores[6:])


def test_generation_is_compared_with_other_prompts(tmp_path):
    row = {
        "testset": "sentiment-text",
        "task": "generation",
        "version": "2",
        "direction": "S",
        "measure": "GenPPL",
    }
    results = {**EVALUATION, "rows": [row | {"value": 90.0, "low": 80.0, "high": 99.0}]}
    (score,) = read_scores(written(tmp_path, results))
    assert score.key == ("generation", "S", "GenPPL")
    assert "| | TWIST 7B | 93.7 | other data: LibriSpeech test-clean prompts |" in scoreboard([score])


def test_units_and_results_of_the_harness_are_read(tmp_path):
    assert [(s.measure, round(s.value, 6)) for s in read_scores(written(tmp_path, UNITS))] == [
        ("ABX, features, within", 10.0),
        ("ABX, features, across", 30.0),
        ("bits per second", 214.0),
        ("ABX, features, mean of within and across", 20.0),
    ]
    mmlu, wikitext = read_scores(written(tmp_path, HARNESS))
    assert (mmlu.key, mmlu.value, mmlu.system) == (("mmlu", "T", "accuracy"), 25.0, "exported")
    assert (mmlu.low, mmlu.high) == pytest.approx((23.04, 26.96))
    assert (wikitext.key, wikitext.value, wikitext.low) == (
        ("wikitext", "0-shot", "word_perplexity"),
        31.5,
        None,
    )
    assert "Spirit LM Base 7B" in scoreboard([mmlu])


def test_every_published_number_has_a_source_and_is_stated_once():
    published = published_scores()
    assert all(score.source and score.data and score.system for score in published)
    keys = [(*score.key, score.system) for score in published]
    assert len(keys) == len(set(keys))
    assert {score.key for score in own_scores()} & {score.key for score in published}


def test_a_number_on_other_data_is_never_called_the_same():
    published = Score("units", "", "PNMI", 48.3, "HuBERT", "discophon, English", "leaderboard")
    own = replace(published, system="ours", data="development speech")
    assert "other data: discophon, English" in scoreboard([own], [published])
    assert "same data: discophon, English" in scoreboard([replace(own, data=published.data)], [published])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "need JSON of results"),
        ("[]", "need results of wordweave evaluate"),
        (
            '{"format": "wordweave codebook 1"}',
            "results are damaged: ValueError need format 'wordweave evaluation'",
        ),
        ('{"encoders": [], "rows": [{}]}', "results are damaged: KeyError 'encoder'"),
        ('{"results": {}}', "need results with a number, got none"),
    ],
)
def test_a_file_that_holds_no_results_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_text(content)
    refused = CliRunner().invoke(wordweave.cli, ["scoreboard", str(path)])
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert message in refused.stderr


def test_the_command_prints_our_numbers_beside_published_ones(tmp_path):
    done = CliRunner().invoke(wordweave.cli, ["scoreboard", "--task", "units"])
    assert done.exit_code == 0
    assert (
        "| | SpidR, MMS-ulab, layer 5, 10 h of the language | 58.8 | other data: discophon, English |"
        in done.stdout
    )
    refused = CliRunner().invoke(wordweave.cli, ["scoreboard", "--task", "chess"])
    assert refused.exit_code == 2
