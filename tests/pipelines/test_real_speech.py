"""The whole path on real recordings. Skips, and says so, where they are absent."""

import json
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner

import wordweave
from aligners.given import GivenSettings, read_everything
from aligners.match import Label
from aligners.score import compare
from corpus.toml import write_toml
from pipelines import settings
from tests.helpers.builds import ROOT, hashes, members

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(real_speech, tmp_path_factory):
    """`make corpus` on the 249 real utterances, by its own command."""
    folder = tmp_path_factory.mktemp("dev")
    words = [
        "build",
        str(ROOT / "config" / "corpus.toml"),
        "--source",
        str(real_speech / "dev" / "manifest.jsonl"),
    ]
    result = CliRunner().invoke(wordweave.cli, [*words, "--build", str(folder), "--workers", "2"])
    assert result.exit_code == 0, result.output
    return folder


def test_97_of_100_real_utterances_are_aligned_and_none_is_lost(built, real_speech):
    rows = [json.loads(line) for line in (real_speech / "dev" / "manifest.jsonl").read_text().splitlines()]
    rejected = {
        json.loads(line)["id"] for line in (built / "report" / "rejects.jsonl").read_text().splitlines()
    }
    kept = members(built, "interleaved").keys()
    assert kept | rejected == {row["id"] for row in rows}
    assert not kept & rejected
    assert len(kept) >= 0.97 * len(rows)


def test_real_hours_are_conserved_to_the_sample(built):
    result = json.loads((built / "report" / "report.json").read_text())
    assert result["in"]["samples"] == result["out"]["samples"] + result["rejected"]["samples"] == 29_402_535


def errors_of(words, grid):
    """Boundary errors of `[text, spoken, start, end, ...]` rows against a TextGrid, word by word, in seconds."""
    tiers = read_everything(str(grid), GivenSettings())[""]
    labels = [Label(text, start, end) for text, _, start, end, *_ in words]
    return np.abs(compare(tiers.words, labels)) / 1000


def test_real_word_times_are_near_those_of_another_aligner_and_a_shift_by_one_word_is_not(built, real_speech):
    errors, shifted = [], []
    for key, sample in members(built, "interleaved").items():
        path = real_speech / "dev" / "alignments" / f"{key}.TextGrid"
        if path.is_file():
            words = sample["json"]["words"]
            late = [[*word[:2], *following[2:4]] for word, following in pairwise(words)] + [words[-1]]
            errors += errors_of(words, path).tolist()
            shifted += errors_of(late, path).tolist()
    assert len(errors) > 1000
    assert np.median(errors) < 0.020
    assert np.mean(errors) < 0.030
    assert np.median(shifted) > 0.100


def test_verify_finds_nothing_wrong(built):
    result = CliRunner().invoke(wordweave.cli, ["verify", str(built)])
    assert result.exit_code == 0, result.output


def test_a_few_minutes_of_training_beat_the_unigram_entropy_of_held_out_speech(built):
    words = [
        "train",
        str(built),
        "--config",
        str(ROOT / "config" / "lm" / "small_corpus.toml"),
        "--tokens",
        "300000",
        "--json",
    ]
    result = CliRunner().invoke(wordweave.cli, words)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout.strip().splitlines()[-1])
    assert answer["loss_interleaved"] < answer["entropy_interleaved"]
    assert answer["loss_speech"] < answer["entropy_speech"]


def test_the_given_times_of_real_textgrids_make_the_same_kind_of_build(real_speech, tmp_path):
    config = tmp_path / "given.toml"
    rows = [json.loads(line) for line in (real_speech / "dev" / "manifest.jsonl").read_text().splitlines()]
    rows = [row for row in rows if (row["alignment"] or "").endswith(".TextGrid")]
    for row in rows:
        row["audio"] = str(real_speech / "dev" / row["audio"])
        row["alignment"] = str(real_speech / "dev" / row["alignment"])
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = settings.replace(settings.Settings(), "align", backend="given")
    changed = settings.replace(changed, "units", clusters=100)
    config.write_text(write_toml(changed))
    words = [
        "build",
        str(config),
        "--source",
        str(tmp_path / "manifest.jsonl"),
        "--build",
        str(tmp_path / "build"),
    ]
    result = CliRunner().invoke(wordweave.cli, words)
    assert result.exit_code == 0, result.output
    assert len(members(tmp_path / "build", "interleaved")) >= 0.97 * len(rows)
    assert hashes(tmp_path / "build")
