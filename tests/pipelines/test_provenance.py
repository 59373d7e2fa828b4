"""Licence, source and split from manifest to shards, filters on them, speakers under other names, the data card."""

import dataclasses
import json

import pytest
from huggingface_hub import DatasetCard

from corpus import files
from corpus.manifest import OPTIONAL
from corpus.pseudonyms import pseudonym, read_salt
from pipelines import settings
from pipelines.build import build
from pipelines.layout import part_names
from pipelines.reports.data_card import write_data_card
from tests.golden import tiny_settings
from tests.helpers.builds import hashes, members

SALT = b"a salt that nobody knows"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A build of six recordings: four may be used, and their speakers have salted hashes."""
    folder = tmp_path_factory.mktemp("provenance")
    base = tiny_settings(folder)
    path = files.to_path(base.corpus.source)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= {
        "license": "CC BY 4.0",
        "source": "https://librivox.org/1",
        "split": "train",
        "language": "en-GB",
    }
    rows[1] |= {"license": "all rights reserved"}
    rows[2] |= {"license": "cc-by-4.0", "split": "Test"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "salt").write_bytes(SALT + b"\n")
    corpus = dataclasses.replace(
        base.corpus, licence="CC0-1.0", source_name="our corpus", licences=["CC-BY-4.0", "CC0-1.0"],
        speaker_salt=str(folder / "salt"),
    )  # fmt: skip
    wanted = dataclasses.replace(
        base, corpus=corpus, pitch=settings.PitchSettings(), style=settings.StyleSettings()
    )
    build(folder / "build", wanted)
    return folder, wanted


def test_licence_source_and_split_are_in_every_sample(case):
    for stream in ("speech", "interleaved", "text"):
        samples = {key: sample["json"] for key, sample in members(case[0] / "build", stream).items()}
        assert samples.keys() == {"u0", "u2", "u3", "u4", "u5"}
        assert samples["u0"]["licence"] == "CC BY 4.0"
        assert samples["u0"]["source"] == "https://librivox.org/1"
        assert samples["u0"]["source_split"] == "train"
        assert samples["u3"]["licence"] == "CC0-1.0"
        assert samples["u3"]["source"] == "our corpus"
        assert "source_split" not in samples["u3"]


def test_another_licence_is_rejected_by_name(case):
    lines = (case[0] / "build" / "report" / "rejects.jsonl").read_text().splitlines()
    (row,) = [json.loads(line) for line in lines]
    assert (row["id"], row["reason"]) == ("u1", "licence.excluded")
    assert row["detail"] == "need one of CC-BY-4.0, CC0-1.0, got 'all rights reserved'"


def test_splits_are_filtered_too_and_none_is_no_split(case, tmp_path):
    build_settings = settings.replace(case[1], "corpus", splits=["train"], licences=[])
    build(tmp_path / "build", build_settings)
    assert members(tmp_path / "build", "speech").keys() == {"u0"}


def test_speakers_are_salted_hashes_and_neither_name_nor_salt_is_in_the_build(case):
    folder = case[0] / "build"
    named = {
        row["id"]: row["speaker"]
        for name in part_names(folder)
        for row in files.read_table(folder / "manifest" / name).to_pylist()
    }
    assert named == {f"u{number}": pseudonym(f"s{number % 3}", SALT) for number in range(6)}
    assert len(set(named.values())) == 3
    for path in filter(lambda path: path.is_file(), folder.rglob("*")):
        assert SALT not in path.read_bytes()
    for sample in members(folder, "speech").values():
        assert sample["json"]["speaker"] in named.values()


def test_the_same_salt_gives_the_same_bytes_and_another_one_other_names(case, tmp_path):
    build(tmp_path / "same", case[1])
    assert hashes(tmp_path / "same") == hashes(case[0] / "build")
    assert pseudonym("s1", SALT) != pseudonym("s1", SALT[1:]) != pseudonym("s2", SALT[1:])


def test_a_salt_that_is_missing_or_short_is_refused(case, tmp_path):
    (tmp_path / "short").write_text("abc")
    for name, message in (("short", "need at least 16 bytes, got 3"), ("gone", "cannot be read")):
        with pytest.raises(ValueError, match=rf"corpus\.speaker_salt: .*{name}: {message}"):
            read_salt(tmp_path / name)


def test_a_manifest_without_source_and_split_has_the_columns_it_had(built):
    for name in part_names(built):
        assert not set(OPTIONAL.names) & set(files.read_table(built / "manifest" / name).column_names)


def test_the_card_is_one_that_hugging_face_reads(case):
    path = write_data_card(case[0] / "build", name="Tiny")
    card = DatasetCard(path.read_text())
    facts = card.data.to_dict()
    assert facts["license"] == ["cc-by-4.0", "cc0-1.0"]
    assert (facts["language"], facts["pretty_name"], facts["size_categories"]) == (["en"], "Tiny", ["n<1K"])
    assert {one["config_name"] for one in facts["configs"]} == {"speech", "text", "interleaved"}
    for text in (
        "| CC0-1.0 | 0.00 |", "| https://librivox.org/1 | 0.00 |", "Speakers: 3, named by salted hashes.",
        "| `[corpus] licences` | [\"CC-BY-4.0\", \"CC0-1.0\"] |", "| `licence.excluded` |", "| rejected | 0.00 | 1 |",
        "sha256 of the vocabulary",
    ):  # fmt: skip
        assert text in card.text, text
    assert write_data_card(case[0] / "build", name="Tiny").read_bytes() == path.read_bytes()


def test_a_card_of_half_a_build_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no build here"):
        write_data_card(tmp_path)
