"""`wordweave prune`: what goes, what stays, and nothing at all without --yes."""

import shutil

import pytest
from click.testing import CliRunner

import wordweave
from pipelines import settings
from pipelines.operations import prune


@pytest.fixture
def build(built, tmp_path):
    """A finished build, copied."""
    return shutil.copytree(built, tmp_path / "build")


def everything(build):
    return {name: (build / name).read_bytes() for name, _ in prune.list_files(build)}


def put(build, *names):
    for name in names:
        (build / name).parent.mkdir(exist_ok=True, parents=True)
        (build / name).write_bytes(b"x")


LEFT = (
    "units/.part-00000.parquet.tmp-123-0a1b2c3d", ".manifest.unfinished/part-00000.parquet",
    "units/part-00000.parquet.failed", "words/part-99999.parquet", "words/part-99999.parquet.done",
    "frames/part-00000.parquet", f"decoded/{'a' * 32}-000.wav", f"todo/{'b' * 32}.jsonl",
    "shards/speech/train-000099.tar",
)  # fmt: skip
MINE = (
    "units/notes.txt",
    "words/part-1.parquet",
    "keep.tar",
    "shards/speech/mine.tar",
    ".hidden",
    "decoded/song.wav",
)


def test_a_finished_build_has_nothing_to_prune(build):
    assert prune.find(build) == []


def test_leftovers_go_and_files_of_others_and_the_build_itself_stay(build):
    whole = everything(build)
    put(build, *LEFT, *MINE)
    stale_files = prune.find(build)
    assert {stale.name for stale in stale_files} == set(LEFT)
    assert prune.remove(build, stale_files) == len(LEFT)
    assert everything(build) == {**whole, **dict.fromkeys(MINE, b"x")}


def test_tables_of_other_settings_go_and_those_that_stand_stay(build):
    config = settings.read_settings(build)
    settings.write_settings(build, settings.replace(config, "align", options={"minimum_score": -40.0}))
    stale_files = {stale.name: stale.why for stale in prune.find(build)}
    names = {name for name, _ in prune.list_files(build) if name.startswith("words/part-")}
    assert stale_files.keys() == names
    assert set(stale_files.values()) == {"made with other settings, models or recordings"}


def test_a_table_whose_models_are_gone_is_left_and_said(build):
    config, lines = settings.read_settings(build), []
    settings.write_settings(build, settings.replace(config, "units", encoder="/gone"))
    assert prune.find(build, say=lines.append) == []
    assert any(line.startswith("prune: units/ is kept") for line in lines)


def test_the_command_lists_and_removes_only_with_yes(build):
    put(build, LEFT[0])
    result = CliRunner().invoke(wordweave.cli, ["prune", str(build)])
    assert result.exit_code == 0, result.output
    assert LEFT[0] in result.output
    assert (build / LEFT[0]).exists()
    assert CliRunner().invoke(wordweave.cli, ["prune", str(build), "--yes"]).exit_code == 0
    assert not (build / LEFT[0]).exists()


def test_a_folder_that_is_no_build_is_refused_and_untouched(tmp_path):
    put(tmp_path, LEFT[0])
    result = CliRunner().invoke(wordweave.cli, ["prune", str(tmp_path), "--yes"])
    assert result.exit_code == 1
    assert "no build here" in result.output
    assert [name for name, _ in prune.list_files(tmp_path)] == [LEFT[0]]
