"""The TOML file: its settings are those of the build, and a mistake is named."""

import dataclasses
from pathlib import Path

import pytest

from corpus.toml import load_toml, read_toml, write_toml
from pipelines import settings
from shards.strategies import STRATEGIES, make_strategy

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.toml")), ids=lambda path: path.name)
def test_what_is_written_reads_back_equal(path, tmp_path):
    config = read_toml(path, settings.Settings)
    (tmp_path / "again.toml").write_text(write_toml(config))
    assert read_toml(tmp_path / "again.toml", settings.Settings) == config


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[units]\nclustres = 3", r"x.toml: \[units\]: unknown key 'clustres'; known: encoder, layer, .*"),
        ("[unit]\nclusters = 3", r"x.toml: unknown key 'unit'; known: build, corpus, .*"),
        ("[units]\nclusters = 'many'", r"units.clusters: need an integer, got 'many'"),
        ("[units]\nclusters = 1", r"units.clusters: need at least 2, got 1"),
        ("units = 3", r"units: need a table \[units\], got 3"),
        ("[shards]\nhold_out_by = 'age'", r"shards.hold_out_by: need one of speaker, hash, got 'age'"),
        (
            "[interleave]\ntext_words = [30, 10]",
            r"interleave: strategy spirit: text_words: need \[min, max\]",
        ),
        (
            "[interleave]\nratio = 0.5",
            r"interleave.ratio: need one of the parameters of strategy spirit \(text_words, speech_words\)",
        ),
        (
            "[interleave]\nstrategy = 'word'\ntext_words = [1, 2]",
            r"strategy word \(none\); remove text_words",
        ),
        ("[units", r"cannot be read as TOML"),
    ],
)
def test_a_mistake_is_named_with_the_rule(tmp_path, text, line):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ValueError, match=line):
        read_toml(tmp_path / "x.toml", settings.Settings)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_has_the_same_parameters_in_settings_as_alone(name):
    assert settings.InterleaveSettings(strategy=name).make_strategy() == make_strategy(name)


def test_a_whole_number_passes_for_a_float(tmp_path):
    (tmp_path / "x.toml").write_text("[corpus]\npart_minutes = 5")
    assert read_toml(tmp_path / "x.toml", settings.Settings).corpus.part_minutes == 5.0


def test_the_full_config_holds_every_key_with_its_default():
    """Except the share held out."""
    written = load_toml(ROOT / "config" / "corpus.toml")
    defaults = dataclasses.asdict(settings.Settings())
    assert written["shards"].pop("valid") == 0.1
    assert defaults["shards"].pop("valid") == 0.05
    assert written == defaults


def test_earlier_names_of_settings_are_read_as_the_present_ones(tmp_path):
    old = """
[corpus]
unaligned = "speech"
[pitch]
use = true
[align]
second = "ctc"
second_options = {}
[text]
writing = "original"
[shards]
by = "hash"
"""
    (tmp_path / "old.toml").write_text(old)
    read = settings.read_file(tmp_path / "old.toml")
    assert read.corpus.keep_unaligned
    assert read.pitch.enabled
    assert not read.style.enabled
    assert read.align.second_backend == "ctc"
    assert (read.text.normalisation, read.shards.hold_out_by) == ("original", "hash")
    (tmp_path / "both.toml").write_text("[shards]\nby = 'hash'\nhold_out_by = 'hash'\n")
    with pytest.raises(ValueError, match=r"both.toml: \[shards\]: unknown key 'by'"):
        settings.read_file(tmp_path / "both.toml")
