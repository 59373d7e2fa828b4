"""A build's tokens to WAV files: by the command line, in the report, and from a model's answers."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import wordweave
from corpus.synthetic.speech import synthesise
from pipelines.operations.vocode import speaker_of, stored_tokens

pytestmark = pytest.mark.slow


def run(*arguments):
    result = CliRunner().invoke(wordweave.cli, [str(one) for one in arguments])
    return result, result.stderr.strip().splitlines()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocode")
    synthesise(folder / "speech", utterances=6, voices=2, seed=0)
    config = folder / "config.toml"
    source = folder / "speech" / "manifest.jsonl"
    config.write_text(
        f'build = "{folder / "build"}"\n[corpus]\nadapter = "jsonl"\nsource = "{source}"\n'
        "[align]\noptions = { minimum_score = -60.0 }\n[pitch]\nenabled = true\n[style]\nenabled = true\n"
        "[text]\nsize = 300\n[shards]\nvalid = 0.4\n"
    )
    result, lines = run("build", config, "--workers", 1)
    assert result.exit_code == 0, lines
    return folder / "build"


def test_an_utterance_is_spoken_from_its_tokens_at_its_own_length(built, tmp_path):
    utterance = json.loads((built.parent / "speech" / "manifest.jsonl").read_text().splitlines()[0])["id"]
    result, _ = run("vocode", built, utterance, "--output", tmp_path / "x.wav", "--json")
    assert result.exit_code == 0
    tokens, frames = stored_tokens(built, utterance)
    assert {"[Hu", "[Pi", "[St"} <= {name[:3] for name in tokens.replace("]", "] ").split()}
    assert json.loads(result.stdout)["seconds"] == round(sum(frames) * 0.04, 3)
    result, lines = run("vocode", built, "nobody", "--output", tmp_path / "x.wav")
    assert (result.exit_code, len(lines)) == (1, 1)


def test_the_report_plays_recordings_beside_their_resynthesis(built):
    media = built / "report" / "media"
    spoken = sorted(media.glob("*-resynthesis.wav"))
    assert 1 <= len(spoken) <= 8
    for path in spoken:
        made, original = (soundfile.read(one)[0] for one in (path, media / f"{path.name[:3]}.flac"))
        assert 0 <= len(original) - len(made) < 640
        assert np.abs(made).max() > 0.01
        data = (built / "report" / "data" / f"{path.name[:3]}.js").read_text()
        assert f'"resynthesis": "media/{path.name}"' in data
        assert f'"vocoder": "{speaker_of(built)[0].name}"' in data


def test_a_second_report_keeps_the_speech_of_the_first(built, tmp_path, monkeypatch):
    build = shutil.copytree(built, tmp_path / "build")
    monkeypatch.setattr("lm.speaker.wav_bytes", None)
    assert run("report", build)[0].exit_code == 0
    first, second = (
        {path.name: path.read_bytes() for path in (one / "report" / "media").iterdir()}
        for one in (built, build)
    )
    assert first == second


def test_resynthesis_uses_the_bundled_vocoder_by_default(built):
    result, _ = run("resynthesis", built, "--count", 2, "--json")
    assert result.exit_code == 0
    rows = json.loads((built / "evaluation" / "resynthesis.json").read_text())["rows"]
    spoken = [row for row in rows if "vocoder" in row and "value" in row]
    assert {row["measure"] for row in spoken} >= {
        "F0 frame error after a vocoder",
        "style agreement after a vocoder",
    }
    assert all(row["vocoder"].startswith("bundled (") for row in spoken)
