"""Recognisers: words with their confidence from any kind of model, and commands that hang or invent."""

import itertools
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aligners.recognisers import load_recogniser
from aligners.recognisers.command import OUTPUT, CommandRecogniser
from aligners.recognisers.model import ModelRecogniser, load_model
from aligners.recognisers.transcript import Recording, Transcript, agreement
from corpus.adapters import read_jsonl
from corpus.audio import decode
from corpus.records import Reject
from tests.helpers.recognisers import random_ctc, random_parakeet, random_whisper, real_whisper

KINDS = {
    "ctc": random_ctc,
    "ctc, group norm": lambda folder: random_ctc(folder, "group"),
    "parakeet": random_parakeet,
    "whisper": random_whisper,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {kind: make(tmp_path_factory.mktemp("model")) for kind, make in KINDS.items()}


@pytest.fixture(scope="module")
def recordings():
    rng = np.random.default_rng(0)
    lengths = (16_000, 9_000, 40_000, 16_000)
    return [Recording((0.1 * rng.normal(size=length)).astype(np.float32), "en") for length in lengths]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_gives_words_with_confidence_whatever_else_is_transcribed(models, recordings, kind):
    recogniser = ModelRecogniser(str(models[kind]))
    results = recogniser.transcribe(recordings)
    assert all(isinstance(one, Transcript) for one in results)
    assert any(one.words for one in results)
    for recording, result in zip(recordings, results):
        assert recogniser.transcribe([recording]) == [result]
        assert all(0 < word.confidence <= 1 for word in result.words)
        assert len(result.text) < 15 * len(recording.waveform) / 16_000 * 4 + 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_changes_no_word(models, recordings, kind):
    alone = ModelRecogniser(str(models[kind])).transcribe(recordings)
    batched = ModelRecogniser(str(models[kind]), batch=3).transcribe(recordings)
    assert [one.text for one in alone] == [one.text for one in batched]
    for one, other in zip(alone, batched):
        assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


def test_a_long_recording_is_transcribed_in_pieces(models):
    wave = (0.1 * np.random.default_rng(0).normal(size=33 * 16_000)).astype(np.float32)
    wave[27 * 16_000 : 28 * 16_000] = 0
    recogniser = ModelRecogniser(str(models["ctc"]))
    (whole,) = recogniser.transcribe([Recording(wave)])
    pieces = recogniser.transcribe([Recording(wave[: 27 * 16_000]), Recording(wave[27 * 16_000 :])])
    assert whole.words == pieces[0].words + pieces[1].words


def test_the_identity_depends_on_weights_vocabulary_and_precision(models, tmp_path):
    identities = {load_model(str(folder), "cpu", "float32").identity for folder in models.values()}
    assert len(identities) == len(KINDS)
    again = random_whisper(tmp_path)
    assert load_model(str(again), "cpu", "float32").identity in identities
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace('"▁e"', '"▁x"'))
    load_model.cache_clear()
    assert load_model(str(again), "cpu", "float32").identity not in identities


def test_what_is_no_recogniser_is_named(tmp_path, models, huberts):
    with pytest.raises(
        ValueError, match="nothing: need a directory or hub name of a model for speech recognition"
    ):
        load_recogniser(str(tmp_path / "nothing"), "", device="cpu", dtype="float32", batch=None, timeout=1)
    with pytest.raises(ValueError, match="need a directory or hub name of a model for speech recognition"):
        ModelRecogniser(str(next(iter(huberts.values()))[1]))
    with pytest.raises(
        ValueError, match=r"transcribe\.device: need a device that torch can use, got 'cuda:99'"
    ):
        ModelRecogniser(str(models["whisper"]), "cuda:99")
    with pytest.raises(ValueError, match="transcribe: no program 'no-such-program'"):
        CommandRecogniser("no-such-program --fast")
    with pytest.raises(ValueError, match="need a command, got"):
        CommandRecogniser("'")


def test_agreement_counts_words():
    assert agreement("They went out", "they went, OUT!") == 1
    assert agreement("a b c d", "a x c") == 0.5
    assert agreement("a", "b c d") == 0


@pytest.fixture
def command(tmp_path):
    """A function: source of a Python program with the path of the WAV as `path` -> its command."""

    def make(source, timeout=20.0):
        script = tmp_path / "recogniser.py"
        script.write_text(f"import os, sys, time, wave\npath = sys.argv[1]\n{source}\n")
        return CommandRecogniser(f"{sys.executable} -I -S {script}", timeout)

    return make


def test_a_command_gets_a_wav_and_its_answer_is_read_as_text_or_json(command, recordings):
    print_length = "print('they', wave.open(path).getnframes(), os.environ['WORDWEAVE_LANGUAGE'])"
    results = command(print_length).transcribe(recordings[:2])
    assert [one.text for one in results] == ["they 16000 en", "they 9000 en"]
    assert results[0].confidence is None
    words = '{"words": [{"text": "so it", "confidence": 0.5}, {"text": "is", "confidence": 1}]}'
    (one,) = command(f"print('''{words}''')").transcribe(recordings[:1])
    assert (one.text, [word.confidence for word in one.words]) == ("so it is", [0.5, 0.5, 1.0])


@pytest.mark.parametrize(
    ("source", "reason", "detail"),
    [
        ("sys.exit('no licence')", "transcribe.failed", r"exit code 1 \(no licence\)"),
        ("print('{')", "transcribe.failed", "need text, or"),
        ("print('{\"words\": 3}')", "transcribe.failed", "need text, or"),
        ("while True: print('thank you' * 1000)", "transcribe.failed", f"printed more than {OUTPUT} bytes"),
    ],
)
def test_a_command_that_fails_or_never_ends_its_text_is_named_and_the_rest_continues(
    command, recordings, source, reason, detail
):
    bad = f"if wave.open(path).getnframes() == 9000:\n    {source}\nprint('fine')"
    first, second, third = command(bad).transcribe(recordings[:3])
    assert (first.text, third.text) == ("fine", "fine")
    assert isinstance(second, Reject)
    assert second.reason == reason
    assert re.search(detail, second.detail)


def test_a_command_that_hangs_is_ended_with_what_it_started(command, recordings, tmp_path):
    child = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, file=open(path + '.pid', 'w'))"
    kept = f"open({str(tmp_path / 'pid')!r}, 'w').write(open(path + '.pid').read())"
    hang = command(f"{child}\n{kept}\ntime.sleep(60)", timeout=1.0)
    before = time.monotonic()
    (result,) = hang.transcribe(recordings[:1])
    assert result.reason == "transcribe.timeout"
    assert "took longer than 1 s" in result.detail
    assert time.monotonic() - before < 30
    pid = int((tmp_path / "pid").read_text())
    for _ in range(50):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the program that the command started still runs")


ANSWERS = """
for line in open(sys.argv[1]):
    wave_file = wave.open(line.strip())
    text = f"frames {wave_file.getnframes()} {os.environ['WORDWEAVE_LANGUAGE']}"
    name = os.path.basename(line.strip()).split(".")[0]
"""


@pytest.fixture
def list_command(command):
    """A function: source that runs for each path of the list, with its `text` and `name` -> the command."""

    def make(each, batch=16, timeout=20.0):
        one = command(
            "import json" + ANSWERS + "".join(f"    {line}\n" for line in each.splitlines()), timeout
        )
        return CommandRecogniser(f"{one.command} {{list}}", timeout, batch)

    return make


@pytest.mark.parametrize(
    "each",
    [
        "print(json.dumps({'text': text}))",
        "print(json.dumps({'id': name, 'words': [{'text': text, 'confidence': 0.5}]}))",
        "import atexit; atexit.register(print, json.dumps({'id': line.strip(), 'text': text}))",  # the last first
    ],
)
def test_a_command_takes_a_list_and_its_answers_do_not_depend_on_the_calls(list_command, recordings, each):
    several = [*recordings, Recording(recordings[0].waveform, "de")]
    results = [list_command(each, batch).transcribe(several) for batch in (1, 2, 16)]
    assert results[0] == results[1] == results[2]
    assert [one.text for one in results[0]] == [
        f"frames {len(one.waveform)} {one.language}" for one in several
    ]


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        ("pass", "transcribe.failed", r"need a line for each recording of the list, 1, got 0"),
        ("print(good); print(good)", "transcribe.failed", r"need a line for each recording of the list, 1, got 2"),
        ("print('{\"id\": \"mine\", \"text\": \"so\"}')", "transcribe.failed", r"need an id of the list, got 'mine'"),
        ("print('{\"id\": [3]}')", "transcribe.failed", r"need a JSON object like"),
        ("print('they went')", "transcribe.failed", r"need a JSON object like .* in each line, got 'they went'"),
        ("print('{\"text\": null}')", "transcribe.failed", r"text: need a string, got None"),
        ("print('{\"text\": \"\\\\ud800\"}')", "transcribe.failed", r"surrogates not allowed"),
        ("print('{\"words\": [{\"text\": \"a\", \"confidence\": NaN}]}')", "transcribe.failed", r"need 0 to 1"),
        ("sys.stdout.buffer.write(b'{\"text\": \"\\xe9\"}\\n')", "transcribe.failed", r"need UTF-8"),
        ("sys.exit('cannot use ' + line)", "transcribe.failed", r"exit code 1 \(cannot use 00000.wav\)"),
        ("time.sleep(60)", "transcribe.timeout", r"took longer than 1 s"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_one_answer_is_named_and_costs_no_other_one(
    list_command, recordings, bad, reason, detail
):
    each = "good = json.dumps({'text': text})\n"
    each += f"if '9000' in text:\n    {bad}\nelse:\n    print(good)"
    alone, together = (list_command(each, batch, timeout=1.0).transcribe(recordings[:3]) for batch in (1, 3))
    assert alone == together
    assert [one.text.split()[1] for one in (alone[0], alone[2])] == ["16000", "40000"]
    assert alone[1].reason == reason
    assert re.search(detail, alone[1].detail), alone[1].detail


def test_the_identity_of_a_command_depends_on_its_files(command):
    assert command("print(1)").identity == command("print(1)").identity != command("print(2)").identity


@pytest.mark.slow
def test_a_real_whisper_finds_the_words_of_real_speech(real_speech, tmp_path):
    recogniser = ModelRecogniser(str(real_whisper(tmp_path)))
    rows = list(itertools.islice(read_jsonl(real_speech / "dev" / "manifest.jsonl"), 0, 40, 8))
    results = recogniser.transcribe([Recording(decode(row), "en") for row in rows])
    assert np.mean([agreement(one.text, row.text) for one, row in zip(results, rows)]) > 0.9
    assert all(one.confidence > 0.7 for one in results)
