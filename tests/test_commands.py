"""Manners of the command line: suggestions, colours, quiet, progress, completion, and the demo in one command."""

import json
import sys

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import wordweave
from corpus.toml import load_toml
from pipelines.execution.progress import progress_bar
from pipelines.operations.demo import demo_settings
from pipelines.settings import read_file
from tests.helpers.requirements import ROOT


@pytest.mark.parametrize(
    ("words", "better"),
    [
        (["buidl"], "Did you mean 'build'?"),
        (["report", "--agianst", "x"], "Did you mean '--against'?"),
        (["fit", "unit"], "Did you mean 'units'?"),
    ],
)
def test_a_mistyped_command_or_option_is_answered_with_the_right_one(words, better):
    result = CliRunner().invoke(wordweave.cli, words)
    assert (result.exit_code, better in result.output) == (2, True), result.output


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("[units]\nclustres = 3", "did you mean 'clusters'?"),
        ("[corpus]\nids = 'strct'", "did you mean 'strict'?"),
        ("[allign]\n", "did you mean 'align'?"),
    ],
)
def test_a_mistyped_setting_is_answered_with_the_right_one(text, better, tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=better.replace("?", r"\?")):
        read_file(path)


def test_no_color_turns_colours_off():
    plain = CliRunner().invoke(wordweave.cli, ["testset", "--list"], color=True, env={"NO_COLOR": "1"})
    coloured = CliRunner().invoke(wordweave.cli, ["testset", "--list"], color=True, env={"NO_COLOR": ""})
    assert "\x1b[" in coloured.output
    assert "\x1b[" not in plain.output


def test_progress_is_one_line_where_the_output_is_no_terminal(capsys):
    with progress_bar("train", 300, "token") as show:
        for done in (100, 200, 300):
            show(done, f"loss {3 - done / 100:.1f}")
    assert capsys.readouterr().err == "train: 300/300 tokens, loss 0.0\n"


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar("train", 300, "token") as show:
        show(150, "loss 1.5")
    output = capsys.readouterr().err
    assert "50%" in output
    assert "loss 1.5" in output
    assert "\n" not in output.rstrip("\n")


def test_quiet_leaves_only_the_result(inspected):
    loud = CliRunner().invoke(wordweave.cli, ["report", str(inspected)])
    quiet = CliRunner().invoke(wordweave.cli, ["report", str(inspected), "--quiet"])
    assert "audio.missing" in loud.stderr
    assert (quiet.stderr, quiet.stdout) == ("", loud.stdout)


def test_the_shell_completes_commands():
    complete = ShellComplete(wordweave.cli, {}, "wordweave", "_WORDWEAVE_COMPLETE")
    assert [item.value for item in complete.get_completions([], "rep")] == ["report"]
    assert "--against" in [item.value for item in complete.get_completions(["report"], "--")]


def test_the_demo_has_the_settings_of_the_files_in_config(tmp_path):
    from pathlib import Path

    build, training = demo_settings(Path("build/demo"), Path("build/demo-speech"))
    assert build == load_toml(ROOT / "config" / "demo.toml")
    assert training == load_toml(ROOT / "config" / "lm" / "demo.toml")


@pytest.mark.slow
def test_the_demo_ends_with_the_page(tmp_path):
    pytest.importorskip("espeakng_loader", reason="the demo extra speaks the demo corpus")
    folder = tmp_path / "build"
    words = ["demo", str(folder), "--utterances", "20", "--tokens", "20000", "--json"]
    result = CliRunner().invoke(wordweave.cli, words)
    assert result.exit_code == 0, result.output
    page = json.loads(result.stdout.splitlines()[-1])["page"]
    assert page == str(folder / "report" / "index.html")
    assert '"held_out"' in (folder / "report" / "data" / "overview.js").read_text()
