"""Demo speech: the same bytes every time, true word times, and words that an aligner knows."""

import hashlib
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus.adapters import read_jsonl
from corpus.audio import decode
from corpus.manifest import write_manifest
from corpus.records import Utterance
from corpus.synthetic.grammar import NAMES, TOPICS, Story, story
from corpus.synthetic.speech import _story, _unspoken, synthesise

ROOT = Path(__file__).resolve().parents[2]


def words_of(text: str) -> list[str]:
    return text.replace(",", "").replace(".", "").split()


def word_times(path: Path) -> list[tuple[float, float, str]]:
    from praatio import textgrid

    return [tuple(entry) for entry in textgrid.openTextgrid(str(path), False).getTier("words").entries]


def tree(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stories(count: int = 3000) -> list[Story]:
    return [story(np.random.default_rng(seed)) for seed in range(count)]


def test_every_word_of_the_grammar_is_in_the_dictionary_of_the_aligner():
    import pocketsphinx

    dictionary = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    known = {line.split()[0] for line in dictionary.read_text().splitlines()}
    spoken = {word for example in stories() for word in words_of(example.text)}
    assert spoken - known == set()
    assert 250 <= len(spoken) <= 400


def test_a_story_uses_words_of_its_own_topic_only():
    topical = {name: {word for words in topic for word in words} for name, topic in TOPICS.items()}
    for example in stories(500):
        others = set().union(*(words for name, words in topical.items() if name != example.topic))
        assert not set(words_of(example.text)) & (others - topical[example.topic])
        assert set(words_of(example.sentences[-1])) & topical[example.topic]


def test_an_a_is_never_followed_by_a_vowel():
    for example in stories(500):
        words = words_of(example.text)
        assert all(after[0] not in "aeiou" for word, after in pairwise(words) if word == "a")


def test_stories_have_the_length_that_interleaving_needs():
    lengths = [len(words_of(example.text)) for example in stories()]
    assert (min(lengths), max(lengths)) == (17, 56)
    assert 30 <= np.mean(lengths) <= 36


def test_a_topic_can_be_asked_for_and_names_are_no_topic_words():
    assert all(story(np.random.default_rng(0), topic).topic == topic for topic in TOPICS)
    assert not set(NAMES) & {word for topic in TOPICS.values() for words in topic for word in words}


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path):
    pytest.importorskip("espeakng_loader")
    call = "synthesise(sys.argv[1], utterances=9, voices=9, seed=4)"
    program = f"import sys; from corpus.synthetic.speech import *; {call}"
    for name in ("first", "second"):
        subprocess.run([sys.executable, "-c", program, tmp_path / name], cwd=ROOT, check=True)
        time.sleep(1)  # espeak-ng seeds itself with the time in seconds
    first = tree(tmp_path / "first")
    assert first == tree(tmp_path / "second")
    assert len(first) == 9 + 9 + 2  # f2, f3 and f5 are breathy
    synthesise(tmp_path / "other", utterances=2, voices=2, seed=5)
    assert not set(first.values()) & set(tree(tmp_path / "other").values())


def test_an_utterance_does_not_depend_on_those_before_it(tmp_path):
    pytest.importorskip("espeakng_loader")
    synthesise(tmp_path / "few", utterances=3, voices=3)
    synthesise(tmp_path / "more", utterances=6, voices=3)
    few, more = tree(tmp_path / "few"), tree(tmp_path / "more")
    assert {name for name in few if few[name] != more[name]} == {"manifest.jsonl", "text.txt"}


def test_progress_counts_the_utterances(tmp_path):
    pytest.importorskip("espeakng_loader")
    calls = []
    synthesise(tmp_path, utterances=3, voices=1, documents=0, progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert (tmp_path / "text.txt").read_text() == ""


def test_the_spoken_corpus_is_ingested_without_a_reject(spoken_corpus, tmp_path):
    rows = list(read_jsonl(spoken_corpus))
    assert [type(row) for row in rows] == [Utterance] * 24
    assert {row.speaker for row in rows} == {f"synth0{number}" for number in range(4)}
    assert write_manifest(rows, tmp_path / "m").rejected == {}
    assert len(decode(rows[0])) == rows[0].samples


def test_the_word_times_are_those_of_the_written_words(spoken_corpus):
    for line in map(json.loads, spoken_corpus.read_text().splitlines()):
        times = word_times(spoken_corpus.parent / line["alignment"])
        assert [word for *_, word in times] == words_of(line["text"])
        assert all(0.03 < end - start < 1.5 for start, end, _ in times)
        assert all(end <= start for (_, end, _), (start, _, _) in pairwise(times))
        assert times[0][0] >= 0.1
        assert times[-1][1] <= line["duration_s"] - 0.1


def test_speech_is_loud_within_words_quiet_between_them_and_never_clipped(spoken_corpus):
    for line in map(json.loads, spoken_corpus.read_text().splitlines()):
        waveform, rate = soundfile.read(spoken_corpus.parent / line["audio"])
        times = word_times(spoken_corpus.parent / line["alignment"])
        spoken = np.zeros(len(waveform), bool)
        for start, end, _ in times:
            spoken[round(start * rate) : round(end * rate)] = True
        assert 0.2 < np.abs(waveform).max() < 0.9
        assert np.std(waveform[spoken]) > 10 * np.std(waveform[~spoken])
        assert 1.8 < len(times) / line["duration_s"] < 3.5
        silence = len(waveform) / rate - (times[-1][1] - times[0][0])
        assert silence < 0.5  # at both ends together


def test_there_is_a_pause_after_every_sentence(spoken_corpus):
    for line in map(json.loads, spoken_corpus.read_text().splitlines()):
        times = word_times(spoken_corpus.parent / line["alignment"])
        last = [word.endswith(".") for word in line["text"].split()]
        pauses = [after[0] - before[1] for before, after in pairwise(times)]
        assert all(pause > 0.2 for pause, ends in zip(pauses, last, strict=False) if ends)


def test_a_story_that_was_spoken_is_left_out_of_the_documents():
    first = _story(0, "text", 0)
    assert [*_unspoken([first], 3, seed=0)] == [*_unspoken([], 4, seed=0)][1:]


def test_no_document_was_spoken(spoken_corpus):
    documents = (spoken_corpus.parent / "text.txt").read_text().splitlines()
    spoken = {json.loads(line)["text"] for line in spoken_corpus.read_text().splitlines()}
    assert len(documents) == 4 * 24
    assert not spoken & set(documents)


@pytest.mark.parametrize("options", [{"utterances": 0}, {"voices": 0}, {"documents": -1}], ids=str)
def test_numbers_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="synth: need"):
        synthesise(tmp_path, **options)


def test_without_espeak_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("corpus.synthetic.speech.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "wordweave\[demo\]"'):
        synthesise(tmp_path)
