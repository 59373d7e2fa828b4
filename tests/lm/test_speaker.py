"""Tokens to WAV files: the bundled vocoder by the command line, in evaluation, and what is refused."""

import json

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import wordweave
from lm.evaluation.external_tools import vocode
from lm.evaluation.resynthesis import Recording, Tokenizers, measure
from lm.speaker import at_rate, open_speaker
from pipelines.operations.vocode import write_answers
from shards.stream import merge
from units.deduplicate import deduplicate
from units.encoders import bundled_codebook
from units.kmeans import load as load_codebook
from units.prosody import pitch, style
from units.vocoder.signal import advance, pulses

TOKENS = "[St3][Pi5][Hu7][Hu90][Pi6][Hu311][Hu12]"


@pytest.fixture(scope="module")
def speaker():
    return open_speaker("bundled")


def run(*arguments):
    result = CliRunner().invoke(wordweave.cli, [str(one) for one in arguments])
    return result, result.stderr.strip().splitlines()


def test_tokens_become_a_wav_that_is_the_same_every_time(tmp_path):
    for name in ("a", "b"):
        result, _ = run("vocode", TOKENS, "--output", tmp_path / f"{name}.wav", "--json")
        assert result.exit_code == 0
    fields = json.loads(result.stdout)
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.samplerate, info.channels, info.duration) == (16_000, 1, fields["seconds"])
    assert fields["vocoder"].startswith("bundled (")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    wave, _ = soundfile.read(tmp_path / "a.wav")
    assert 0.001 < np.abs(wave).max() < 1


def test_the_bundled_vocoder_is_small_and_made_for_the_bundled_tokens(speaker):
    from units.vocoder.vocoder import BUNDLED

    assert sum(path.stat().st_size for path in BUNDLED.glob("*.safetensors")) <= 8_000_000
    assert speaker.vocoder.identity["codebook"] == load_codebook(bundled_codebook()).hash
    assert speaker.vocoder.identity["pitch"] == pitch.load().hash
    assert speaker.vocoder.identity["style"] == style.load().hash
    assert len(speaker.vocoder.voices) >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["[Hu3][Hu501]"], "vocoder: need units from 0 to 500, got 501"),
        (["[Pi3]"], "vocoder: need at least one unit, got none"),
        (["[Hu3][Text]"], "need [HuN], [PiN] and [StN] only"),
        (["[Hu3]", "--voice", "nobody"], "voice 'nobody': need one of"),
        (["[Hu3]", "--voice", "silence.wav"], "voice of silence.wav: need speech, got silence"),
        (["[Pi64][Hu3]"], "pitch tokens: need (P,) in [0, 64)"),
        (["[St100][Hu3]"], "need style tokens from 0 to 99, got 100"),
        (["[Hu3]", "--vocoder", "empty"], "config.json: need the config of"),
    ],
)  # fmt: skip
def test_bad_tokens_and_voices_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("silence.wav", np.zeros(16_000), 16_000)
    (tmp_path / "empty").mkdir()
    result, lines = run("vocode", *arguments, "--output", "x.wav")
    assert result.exit_code == 1
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "x.wav").exists()


def test_what_is_neither_tokens_nor_a_build_is_wrong_usage(tmp_path):
    for arguments in (["nothing"], ["[Hu1]", "u1"], [tmp_path]):
        result, lines = run("vocode", *arguments, "--output", tmp_path / "x.wav")
        assert (result.exit_code, len(lines)) == (2, 1)


def test_tokens_of_another_codebook_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"vocoder: was made for codebook .* the tokens are of codebook 000000000000"
    ):
        open_speaker("bundled", codebook="0" * 64)


def test_every_speech_span_of_prompts_and_answers_is_a_wav(speaker, tmp_path):
    answers = [
        {"prompt": [("text", "hello")], "to": "speech", "tokens": "[Hu3][Hu5]"},
        {"prompt": [("text", "hello")], "to": "speech", "tokens": "[Hu4]"},
        {
            "prompt": [("speech", "[Hu7]")],
            "to": "free",
            "tokens": "a [Speech][Hu3][Text] b c[Speech][Hu5][Hu9]",
        },
    ]
    names = write_answers(answers, tmp_path, speaker)
    assert names == [
        "answer-1-to-speech-1.wav", "answer-1-to-speech-2.wav",
        "prompt-2-to-free.wav", "answer-2-to-free-1-a.wav", "answer-2-to-free-1-b.wav",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_the_voice_of_a_recording_sets_the_pitch(speaker, tmp_path):
    hertz = np.full(32_000, 130.0)
    buzz = (0.1 * pulses(advance(hertz, 0.0), hertz)).astype(np.float32)
    assert abs(speaker.like(buzz).voice.hertz - 130) < 2
    named = open_speaker("bundled", speaker.vocoder.default_voice)
    assert named.like(buzz) is named
    assert speaker.like(np.zeros(16_000, np.float32)).voice is speaker.voice


def test_resynthesis_names_the_vocoder_in_every_row_it_made(speaker, tmp_path):
    hertz = 120 + 30 * np.sin(np.arange(40_000) / 4000)
    recording = Recording("u1", wave=(0.05 * pulses(advance(hertz, 0.0), hertz)).astype(np.float32))
    tokenizers = Tokenizers(
        lambda wave: np.arange(len(wave) // 640) * 7 % 501, 640, 501, pitch.load(), style.load()
    )
    result = measure([recording], tokenizers, name="buzz", vocoder=speaker)
    made = [row for row in result["rows"] if "vocoder" in row]
    assert result["vocoder"] == speaker.name == made[0]["vocoder"]
    assert {row["measure"] for row in made} >= {
        "F0 frame error after a vocoder",
        "style agreement after a vocoder",
        "WER",
    }


def test_a_command_is_called_as_before(tmp_path):
    script = tmp_path / "speak.sh"
    script.write_text(f"#!/bin/sh\ncat > {tmp_path}/request.json\ncp {tmp_path}/done.wav $1\n")
    script.chmod(0o755)
    soundfile.write(tmp_path / "done.wav", np.ones(800) / 2, 16_000)
    vocode(open_speaker(str(script)), TOKENS, tmp_path / "x.wav")
    assert json.loads((tmp_path / "request.json").read_text())["units"] == [7, 90, 311, 12]
    with pytest.raises(ValueError, match="a vocoder that is a command has its own"):
        open_speaker(str(script), "heart")


def test_pitch_and_style_of_a_stream_come_back_at_their_own_rates():
    rng = np.random.default_rng(0)
    units = np.repeat(rng.permutation(500)[:200], rng.integers(1, 6, 200))
    pitches = np.cumsum(rng.integers(1, 60, (len(units) + 1) // 2)) % 64  # no two neighbours are equal
    styles = rng.integers(100, size=-(-len(units) // 25))
    tokens = "".join(merge(units, pitches, styles, unit_rate=25.0))
    lengths = deduplicate(units)[1]
    np.testing.assert_array_equal(at_rate(tokens, "Pi", lengths, 2.0), pitches)
    np.testing.assert_array_equal(at_rate(tokens, "St", lengths, 25.0), styles)
    assert at_rate("[Hu1][Hu2]", "Pi", np.array([1, 1]), 2.0) is None
