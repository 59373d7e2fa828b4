"""Converters: small stand-ins for published sets, in their layout, become test sets or are refused."""

import csv
import dataclasses
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import CliRunner

from lm.evaluation.datasets import convert as converting
from lm.evaluation.datasets.convert import convert
from lm.evaluation.datasets.published import PUBLISHED
from lm.evaluation.testset import Segment, read_testset
from wordweave import cli


def tone(path: Path, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(int(16_000 * seconds)) / 20), 16_000)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def table(path: Path, *rows: dict) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return write(path, text.getvalue())


@pytest.fixture
def publish(monkeypatch):
    """Sets the published number of items."""

    def set_counts(kind, **counts):
        counts = {name.replace("_", "-"): count for name, count in counts.items()}
        small = dataclasses.replace(PUBLISHED[kind], counts=counts)
        monkeypatch.setitem(converting.PUBLISHED, kind, small)

    return set_counts


def swuggy(folder):
    rows = []
    for id, word, other, frequency in (("7", "brick", "blick", 12), ("8", "squall", "squull", 0)):
        for voice in ("A", "B"):
            for correct, text in ((1, word), (0, other)):
                name = f"{voice}{id}{correct}xyz"
                tone(folder / "lexical/dev" / f"{name}.wav")
                rows.append(
                    {"id": id, "filename": name, "voice": voice, "frequency": frequency, "word": text}
                )
                rows[-1] |= {"phones": "b r", "length": 2, "correct": correct}
    table(folder / "lexical/dev/gold.csv", *rows)
    return rows


def test_swuggy_pairs_both_halves_in_every_voice(tmp_path, publish):
    swuggy(tmp_path / "zr")
    publish("swuggy", dev=2)
    testset = convert("swuggy", tmp_path / "zr", tmp_path / "testset")
    assert [item.id for item in testset.items] == ["7/A", "7/B", "8/A", "8/B"]
    assert {(item.family, item.group) for item in testset.items} == {
        ("7", "in vocabulary"),
        ("8", "out of vocabulary"),
    }
    assert testset.items[0].choices == (
        (Segment("brick", "audio/lexical/dev/A71xyz.wav"),),
        (Segment("blick", "audio/lexical/dev/A70xyz.wav"),),
    )
    assert (testset.task, testset.directions, testset.version) == ("choose", ("T", "S"), "2 dev")
    assert {item.right for item in testset.items} == {0}


def test_a_zip_gives_the_test_set_of_its_folder(tmp_path, publish):
    swuggy(tmp_path / "zr")
    publish("swuggy", dev=2)
    with zipfile.ZipFile(tmp_path / "zr.zip", "w") as archive:
        for path in sorted((tmp_path / "zr").rglob("*")):
            archive.write(path, path.relative_to(tmp_path / "zr"))
    one = convert("swuggy", tmp_path / "zr", tmp_path / "one")
    two = convert("swuggy", tmp_path / "zr.zip", tmp_path / "two")
    assert one.items == two.items
    for name in one.recordings:
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (lambda f, rows: (f / "lexical/dev/A71xyz.wav").unlink(), "line 2: .*A71xyz.wav is missing"),
        (lambda f, rows: table(f / "lexical/dev/gold.csv", *rows[1:]), "line 2: pair 7, voice A: half of it"),
        (lambda f, rows: table(f / "lexical/dev/gold.csv", *rows[:4]), "1 of the published 2 pairs"),
        (lambda f, rows: table(f / "lexical/dev/gold.csv", rows[0], *rows), "line 3: correct: need one 1"),
        (
            lambda f, rows: (f / "lexical/dev/gold.csv").unlink(),
            "need one lexical/dev/gold.csv, got none; swuggy",
        ),
        (lambda f, rows: write(f / "lexical/dev/gold.csv", "id,filename\n1,x\n"), "need columns .*voice"),
        (
            lambda f, rows: write(f / "lexical/dev/A71xyz.wav", "no sound"),
            r"row 1 \('7/A'\): audio.unreadable",
        ),
    ],
)
def test_an_incomplete_copy_is_refused_with_its_row(harm, line, tmp_path, publish):
    rows = swuggy(tmp_path / "zr")
    publish("swuggy", dev=2)
    harm(tmp_path / "zr", rows)
    with pytest.raises(ValueError, match=line) as caught:
        convert("swuggy", tmp_path / "zr", tmp_path / "testset")
    assert "\n" not in str(caught.value)


def test_an_incomplete_copy_is_accepted_on_request_and_marked(tmp_path, publish):
    rows = swuggy(tmp_path / "zr")
    publish("swuggy", dev=2)
    table(tmp_path / "zr/lexical/dev/gold.csv", *rows[:4])
    testset = convert("swuggy", tmp_path / "zr", tmp_path / "testset", partial=True)
    assert testset.version == "2 dev partial"
    assert testset.facts["counted"].startswith("1 of the published 2 pairs")


def test_sblimp_reports_by_type_and_keeps_pairs_of_one_number_apart(tmp_path, publish):
    rows = []
    for kind in ("agreement", "ellipsis"):
        for correct, text in ((1, "dogs eat"), (0, "dogs eats")):
            tone(tmp_path / "zr/syntactic/dev" / f"{kind}{correct}.wav")
            rows.append({"id": 1, "filename": f"{kind}{correct}", "voice": "A", "type": kind, "subtype": "x"})
            rows[-1] |= {"transcription": text, "correct": correct}
    table(tmp_path / "zr/syntactic/dev/gold.csv", *rows)
    publish("sblimp", dev=2)
    testset = convert("sblimp", tmp_path / "zr", tmp_path / "testset")
    assert [(item.family, item.group) for item in testset.items] == [
        ("agreement/x/1", "agreement"),
        ("ellipsis/x/1", "ellipsis"),
    ]


def test_storycloze_of_whole_stories_is_speech_only(tmp_path, publish):
    for id in ("10", "2"):
        for role in ("correct", "incorrect"):
            tone(tmp_path / "tSC" / f"{id}_{role}.wav")
    publish("tstorycloze", test=2)
    testset = convert("tstorycloze", tmp_path, tmp_path / "testset")
    assert [item.id for item in testset.items] == ["2", "10"]
    assert (testset.directions, testset.items[0].context) == (("S",), ())


def parts(folder):
    for role, text in (("mutual", "She cooked."), ("correct", "She ate."), ("incorrect", "It snowed.")):
        tone(folder / f"0_{role}.wav")
        write(folder / f"0_{role}.txt", text + "\n")


def test_storycloze_in_parts_serves_all_four_directions(tmp_path, publish):
    parts(tmp_path / "sSC")
    publish("sstorycloze", test=1)
    testset = convert("sstorycloze", tmp_path / "sSC", tmp_path / "testset")
    assert testset.directions == ("T", "S", "T->S", "S->T")
    assert testset.items[0].context == (Segment("She cooked.", "audio/0_mutual.wav"),)
    assert [choice[0].text for choice in testset.items[0].choices] == ["She ate.", "It snowed."]


def test_a_story_without_one_ending_is_named(tmp_path, publish):
    parts(tmp_path / "sSC")
    (tmp_path / "sSC/0_incorrect.wav").unlink()
    (tmp_path / "sSC/0_incorrect.txt").unlink()
    with pytest.raises(ValueError, match="story 0: 0_incorrect is missing"):
        convert("sstorycloze", tmp_path / "sSC", tmp_path / "testset")


def test_recordings_whose_names_do_not_say_which_is_right_are_refused(tmp_path):
    tone(tmp_path / "sSC/1_a.wav")
    with pytest.raises(
        ValueError, match=r"cannot distinguish right and wrong endings by names such as 1_a.wav"
    ):
        convert("sstorycloze", tmp_path / "sSC", tmp_path / "testset")


def test_storycloze_tables_give_the_stories_they_hold(tmp_path, publish):
    publish("sstorycloze", test=1)
    written = {f"InputSentence{i}": f"s{i}." for i in range(1, 5)} | {"InputStoryid": "a"}
    written |= {"RandomFifthSentenceQuiz1": "no.", "RandomFifthSentenceQuiz2": "yes.", "AnswerRightEnding": 2}
    table(tmp_path / "one/test.csv", written)
    testset = convert("sstorycloze", tmp_path / "one", tmp_path / "testset1")
    assert testset.items[0].context[0].text == "s1. s2. s3. s4."
    assert testset.items[0].choices[testset.items[0].right][0].text == "yes."

    rows = [("prompt", "", "Once."), ("ending", "correct", "Good."), ("ending", "incorrect", "Bad.")]
    columns = ("pair_id", "type", "correctness", "text")
    table(tmp_path / "two/eval.csv", *(dict(zip(columns, ("5", *row))) for row in rows))
    testset = convert("sstorycloze", tmp_path / "two", tmp_path / "testset2")
    assert (testset.items[0].id, testset.items[0].context[0].text, testset.directions) == (
        "5",
        "Once.",
        ("T",),
    )
    table(tmp_path / "two/eval.csv", *(dict(zip(columns, ("5", *row))) for row in rows[:2]))
    with pytest.raises(ValueError, match="story 5: its incorrect row is missing"):
        convert("sstorycloze", tmp_path / "two", tmp_path / "testset2")


def test_blimp_is_read_from_json_lines_and_from_parquet(tmp_path, publish):
    rows = [{"sentence_good": "a", "sentence_bad": "b", "UID": uid, "pairID": "0"} for uid in ("x", "y")]
    for row in rows:
        write(tmp_path / "blimp/data" / f"{row['UID']}.jsonl", json.dumps(row) + "\n")
        (tmp_path / "hub" / row["UID"]).mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist([row]), tmp_path / "hub" / row["UID"] / "train-00000-of-1.parquet"
        )
    publish("blimp", test=2)
    one = convert("blimp", tmp_path / "blimp", tmp_path / "one")
    assert [(item.id, item.group) for item in one.items] == [("x/0", "x"), ("y/0", "y")]
    assert one.items == convert("blimp", tmp_path / "hub", tmp_path / "two").items
    write(tmp_path / "blimp/data/x.jsonl", json.dumps({"UID": "x", "pairID": 0, "sentence_good": "a"}))
    with pytest.raises(ValueError, match=r"x.jsonl: line 1: missing key 'sentence_bad': half of the pair"):
        convert("blimp", tmp_path / "blimp", tmp_path / "one")


def mmlu_rows(split):
    return [[f"{split} question {i}?", "one", "two, or so", "three", "four", "ABCD"[i % 4]] for i in range(3)]


def test_mmlu_gives_the_examples_of_the_subject_before_the_question(tmp_path, publish):
    for split in ("dev", "test"):
        text = io.StringIO()
        csv.writer(text).writerows(mmlu_rows(split))
        write(tmp_path / "data" / split / f"high_school_{split}.csv", text.getvalue())
        columns = {
            "question": [row[0] for row in mmlu_rows(split)],
            "subject": ["high_school"] * 3,
            "choices": [row[1:5] for row in mmlu_rows(split)],
            "answer": ["ABCD".index(row[5]) for row in mmlu_rows(split)],
        }
        (tmp_path / "hub/all").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / "hub/all" / f"{split}-00000-of-00001.parquet")
    publish("mmlu", test=3)
    testset = convert("mmlu", tmp_path / "data", tmp_path / "one", shots=2)
    assert testset.items == convert("mmlu", tmp_path / "hub", tmp_path / "two", shots=2).items
    assert testset.version == "2 test 2-shot"
    assert [choice[0].text for choice in testset.items[1].choices] == list("ABCD")
    assert testset.items[1].right == 1
    assert testset.items[1].context[0].text == (
        "The following are multiple choice questions (with answers) about high school.\n\n"
        "dev question 0?\nA. one\nB. two, or so\nC. three\nD. four\nAnswer: A\n\n"
        "dev question 1?\nA. one\nB. two, or so\nC. three\nD. four\nAnswer: B\n\n"
        "test question 1?\nA. one\nB. two, or so\nC. three\nD. four\nAnswer:"
    )
    with pytest.raises(ValueError, match="subject high_school: need 5 examples in dev, got 3"):
        convert("mmlu", tmp_path / "data", tmp_path / "one")


def test_librispeech_keeps_examples_from_dev_beside_the_test(tmp_path, publish):
    for subset, ids in (("test-clean", ("1-2-0000", "1-2-0001")), ("dev-clean", ("3-4-0000",))):
        speaker, chapter, _ = ids[0].split("-")
        folder = tmp_path / "LibriSpeech" / subset / speaker / chapter
        for id in ids:
            tone(folder / f"{id}.flac")
        write(folder / f"{speaker}-{chapter}.trans.txt", "".join(f"{id} HE SAID {id[-1]}\n" for id in ids))
    publish("librispeech", test_clean=2)
    testset = convert("librispeech", tmp_path, tmp_path / "testset")
    assert [(item.id, item.split) for item in testset.items] == [
        ("1-2-0000", "test"),
        ("1-2-0001", "test"),
        ("3-4-0000", "dev"),
    ]
    assert (testset.task, testset.directions, testset.items[0].context[0].text) == (
        "transcribe",
        ("T->S", "S->T"),
        "he said 0",
    )


def test_fluent_names_the_intent_by_its_three_slots(tmp_path, publish):
    for split in ("train", "test"):
        path = f"wavs/speakers/{split}/a.wav"
        tone(tmp_path / "fsc" / path)
        row = {"path": path, "speakerId": "x", "transcription": "Lights on", "action": "activate"}
        table(tmp_path / f"fsc/data/{split}_data.csv", row | {"object": "lights", "location": "none"})
    publish("fluent", test=1)
    testset = convert("fluent", tmp_path, tmp_path / "testset")
    assert [(item.label, item.split) for item in testset.items] == [
        ("activate lights none", "test"),
        ("activate lights none", "train"),
    ]
    assert testset.labels == ("activate lights none",)


def test_slurp_has_an_item_for_every_recording(tmp_path, publish):
    row = {"slurp_id": 1, "sentence": "wake me", "intent": "alarm_set", "recordings": [{"file": "a.flac"}]}
    row["recordings"].append({"file": "b.flac"})
    write(tmp_path / "slurp/dataset/slurp/test.jsonl", json.dumps(row) + "\n")
    for name in ("a", "b"):
        tone(tmp_path / "slurp/audio/slurp_real" / f"{name}.flac")
    publish("slurp", test=2)
    testset = convert("slurp", tmp_path / "slurp", tmp_path / "testset")
    assert [(item.id, item.label) for item in testset.items] == [("a", "alarm_set"), ("b", "alarm_set")]
    (tmp_path / "slurp/audio/slurp_real/b.flac").unlink()
    with pytest.raises(ValueError, match=r"line 1: slurp_real/b.flac is missing"):
        convert("slurp", tmp_path / "slurp", tmp_path / "testset")


def test_speech_commands_are_tested_by_their_own_list(tmp_path, publish):
    for name in ("go/1_nohash_0", "go/2_nohash_0", "stop/1_nohash_0", "stop/3_nohash_0"):
        tone(tmp_path / "sc" / f"{name}.wav")
    tone(tmp_path / "sc/_background_noise_/pink.wav")
    write(tmp_path / "sc/testing_list.txt", "go/1_nohash_0.wav\n")
    write(tmp_path / "sc/validation_list.txt", "stop/1_nohash_0.wav\n")
    publish("speech-commands", test=1)
    testset = convert("speech-commands", tmp_path / "sc", tmp_path / "testset")
    assert [(item.id, item.label, item.split) for item in testset.items] == [
        ("go/1_nohash_0", "go", "test"),
        ("go/2_nohash_0", "go", "train"),
        ("stop/3_nohash_0", "stop", "train"),
    ]


def expresso(folder):
    names = {"train": "ex01_happy_00001", "dev": "ex01_sad_00002", "test": "ex01_default_00003"}
    for split, id in names.items():
        speaker, style, _ = id.split("_")
        tone(folder / "audio_48khz/read" / speaker / style / "base" / f"{id}.wav")
        write(folder / f"splits/{split}.txt", f"# a note\n{id}\nex01-ex02_happy_001\t(,60.0s)\n")
    for other in ("whisper/base/ex01_whisper_00001", "default/base/ex01_default_emphasis_00001"):
        tone(folder / "audio_48khz/read/ex01" / f"{other}.wav")
    write(
        folder / "read_transcriptions.txt",
        "".join(f"{id}\tIt was *very* {id[5:8]}.\n" for id in names.values()),
    )


def test_expresso_keeps_its_split_and_three_sentiments(tmp_path):
    expresso(tmp_path / "expresso")
    testset = convert("expresso", tmp_path / "expresso", tmp_path / "testset")
    assert [(item.id, item.label, item.split) for item in testset.items] == [
        ("ex01_default_00003", "neutral", "test"),
        ("ex01_happy_00001", "positive", "train"),
        ("ex01_sad_00002", "negative", "dev"),
    ]
    assert (testset.task, testset.items[0].context[0].text) == ("continue", "It was very def.")
    assert testset.directions == ("T", "S", "T->S", "S->T")
    (tmp_path / "expresso/audio_48khz/read/ex01/happy/base/ex01_happy_00001.wav").unlink()
    with pytest.raises(ValueError, match=r"ex01_happy_00001.wav is in the splits, but not in the copy"):
        convert("expresso", tmp_path / "expresso", tmp_path / "testset")


@pytest.mark.parametrize("layout", ["{}/{}", "{}_{}"])
def test_emov_is_split_by_name_within_speaker_and_emotion(layout, tmp_path):
    for speaker in ("bea", "jenie", "sam"):
        for emotion in ("Amused", "Angry", "Neutral", "Sleepy"):
            folder = tmp_path / "emov" / layout.format(speaker, emotion)
            for number in range(1, 6):
                tone(folder / f"{emotion.lower()}_1-28_{number:04d}.wav", 0.02)
    lines = "".join(f'( arctic_a{number:04d} "Sentence {number}." )\n' for number in range(1, 6))
    write(tmp_path / "emov/cmuarctic.data", lines)
    testset = convert("emov", tmp_path / "emov", tmp_path / "testset")
    assert {split: len(testset.in_split(split)) for split in ("train", "dev", "test")} == {
        "train": 27,
        "dev": 9,
        "test": 9,
    }
    assert {item.label for item in testset.items} == {"positive", "negative", "neutral"}
    first = testset.items[0]
    assert first.context[0].text == f"Sentence {int(first.id[-4:])}."
    again = convert("emov", tmp_path / "emov", tmp_path / "again")
    assert again.hash == testset.hash
    for path in (tmp_path / "emov").rglob("angry_*"):
        if "sam" in str(path):
            path.unlink()
    with pytest.raises(ValueError, match="recordings of sam/angry are missing"):
        convert("emov", tmp_path / "emov", tmp_path / "testset")


def test_your_own_tables_become_test_sets(tmp_path):
    tone(tmp_path / "mine/a.wav")
    table(tmp_path / "mine/t.csv", {"path": "a.wav", "label": "lights on"})
    testset = convert("intents", tmp_path / "mine", tmp_path / "testset")
    assert (testset.task, testset.items[0].label, testset.directions) == ("classify", "lights on", ("S->T",))
    table(tmp_path / "moods/t.csv", {"text": "what a day", "label": "Happy", "split": "train"})
    testset = convert("sentiment", tmp_path / "moods", tmp_path / "testset2", partial=True)
    assert (testset.items[0].label, testset.items[0].split, testset.directions) == (
        "positive",
        "train",
        ("T", "T->S"),
    )
    table(tmp_path / "moods/t.csv", {"text": "what a day", "label": "bored"})
    with pytest.raises(ValueError, match=r"line 2: label: need one of happy, .* got 'bored'"):
        convert("sentiment", tmp_path / "moods", tmp_path / "testset2")


def test_a_conversion_can_be_repeated_but_overwrites_no_other_folder(tmp_path):
    tone(tmp_path / "mine/a.wav")
    table(tmp_path / "mine/t.csv", {"path": "a.wav", "label": "x"})
    one = convert("intents", tmp_path / "mine", tmp_path / "testset")
    assert (
        convert("intents", tmp_path / "mine", tmp_path / "testset").hash
        == one.hash
        == read_testset(one.folder).hash
    )
    with pytest.raises(ValueError, match="need an empty folder or a test set to overwrite"):
        convert("intents", tmp_path / "mine", tmp_path / "mine")
    with pytest.raises(ValueError, match="no such folder or zip; intents is not downloaded for you"):
        convert("intents", tmp_path / "gone", tmp_path / "testset")


def test_every_published_set_says_what_it_needs_and_where_it_is(capsys):
    for one in PUBLISHED.values():
        assert one.layout
        assert one.advice().startswith(f"{one.name} is not downloaded for you: get it from {one.url}")
    listed = CliRunner().invoke(cli, ["testset", "--list"]).output
    assert [line for line in listed.splitlines() if line and not line.startswith(" ")] == list(PUBLISHED)


def test_a_new_entry_of_the_registry_is_a_kind_of_the_command(tmp_path, monkeypatch):
    tone(tmp_path / "mine/a.wav")
    table(tmp_path / "mine/t.csv", {"path": "a.wav", "label": "x"})
    monkeypatch.setitem(PUBLISHED, "toy", dataclasses.replace(PUBLISHED["intents"], name="toy"))
    words = ["testset", "toy", str(tmp_path / "mine"), str(tmp_path / "testset"), "--json"]
    result = CliRunner().invoke(cli, words)
    assert json.loads(result.output.splitlines()[-1])["items"] == 1
    refused = CliRunner().invoke(cli, ["testset", "tox", *words[2:]])
    assert f"KIND: need one of {', '.join(PUBLISHED)}, got 'tox'" in " ".join(refused.output.split())


def test_the_command_makes_a_test_set_or_says_what_is_missing_in_one_line(tmp_path):
    tone(tmp_path / "mine/a.wav")
    table(tmp_path / "mine/t.csv", {"path": "a.wav", "label": "x"})
    made = CliRunner().invoke(
        cli, ["testset", "intents", f"{tmp_path}/mine", f"{tmp_path}/testset", "--json"]
    )
    assert json.loads(made.stdout.splitlines()[-1])["items"] == 1
    refused = CliRunner().invoke(cli, ["testset", "swuggy", f"{tmp_path}/mine", f"{tmp_path}/other"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert (
        "need one lexical/dev/gold.csv, got none; swuggy is not downloaded for you: get it from"
        in refused.stderr
    )
    assert "https://www.openslr.org/115" in CliRunner().invoke(cli, ["testset", "--list"]).stdout


def test_salmon_has_pairs_in_eight_parts_whose_first_is_right(tmp_path, publish):
    from lm.evaluation.datasets.choice import SALMON

    for part in SALMON:
        for number in (0, 10):
            for side in (0, 1):
                path = tmp_path / "salmon_benchmark" / part / f"sample_{number}_{side}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                tone(path)
    publish("salmon", test=16)
    testset = convert("salmon", tmp_path / "salmon_benchmark", tmp_path / "testset")
    assert testset.directions == ("S",)
    assert {item.group for item in testset.items} == set(SALMON)
    assert len(testset.items) == 16
    assert all(item.right == 0 and item.choices[0][0].audio.endswith("_0.wav") for item in testset.items)
    path.unlink()
    with pytest.raises(
        ValueError, match=r"speaker_consistency: sample_10: need recordings 0 and 1, got \[0\]"
    ):
        convert("salmon", tmp_path / "salmon_benchmark", tmp_path / "testset")
    shutil.rmtree(tmp_path / "salmon_benchmark" / "rir_consistency")
    with pytest.raises(ValueError, match="need all eight parts, got none of rir_consistency"):
        convert("salmon", tmp_path / "salmon_benchmark", tmp_path / "testset")
