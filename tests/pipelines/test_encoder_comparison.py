"""The table of encoders: what is scored, on whom, and what stays when the sound changes."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner

import wordweave
from pipelines.reports.encoder_comparison import LabelledUtterance, as_table, compare
from pipelines.reports.phones import find_phones, read_speech, speech_with_phones, write_phones
from pipelines.reports.words_kept import word_errors
from units.encoders import BUNDLED, bundled_codebook, load_encoder
from units.pretraining.augment import with_noise
from units.pretraining.targets import read_phones
from units.quantizers import load_codebook


@pytest.fixture(scope="module")
def four(spoken_corpus):
    """Four utterances of several voices."""
    path = spoken_corpus.with_name("four.jsonl")
    path.write_text("".join(spoken_corpus.read_text().splitlines(keepends=True)[:4]))
    return path


@pytest.fixture(scope="module")
def phones(four, tmp_path_factory):
    path = tmp_path_factory.mktemp("phones") / "phones.jsonl"
    return path, write_phones([four], path, transcribe=False)


def test_phones_of_a_manifest_lie_inside_its_recordings_in_order(four, phones):
    path, result = phones
    rejects = {}
    lengths = {item.id: len(wave) / 16_000 for item, wave in read_speech(four, rejects)}
    labels = read_phones(path)
    assert result["utterances"] + sum(result["rejects"].values()) == 4
    assert labels
    for id, found in labels.items():
        assert all(0 <= start < end <= lengths[id] + 1e-6 for _, start, end in found)
        assert all(one[2] <= other[1] + 1e-6 for one, other in pairwise(found))


def test_without_a_transcript_there_are_phones_only_where_one_listens(four, tmp_path):
    path = tmp_path / "mute.jsonl"
    row = json.loads(four.read_text().splitlines()[0])
    path.write_text(json.dumps(row | {"text": None, "audio": str(four.parent / row["audio"])}) + "\n")
    rejects = {}
    assert list(find_phones(read_speech(path, rejects), rejects=rejects)) == []
    assert rejects == {"text.missing": 1}
    items = list(
        find_phones(
            read_speech(path, {}),
            options={"phones": True, "minimum_score": None},
            transcribe=True,
            rejects={},
        )
    )
    assert len(items[0][2]) > 20


def test_the_table_has_a_row_for_each_encoder_and_numbers_within_their_bounds(four, phones):
    items = speech_with_phones([four], phones[0], "pocketsphinx", set(), None, {})
    rows = compare(["mfcc", "logmel"], [item.waveform for item in items], items, clusters=30, seeds=(0, 1))
    assert [row["encoder"] for row in rows] == ["mfcc", "logmel"]
    for row in rows:
        assert row["pnmi"] > row["pnmi_shuffled"] > 0
        assert 0 < row["cluster_purity"] < 1
        assert 0 < row["phone_purity"] < 1
        assert row["same_at_10_db"] < row["same_at_20_db"] < row["same_at_gain"] <= 1
        assert 0 < row["same_at_20_ms"] < row["same_at_10_ms"] < 1
        assert 0.05 < row["phone_probe"] < 1
        assert 0 < row["entropy"] <= np.log2(30)
        assert 0.1 < row["phone_error"] < 1.5
        assert 0 < row["boundary_f1"] < 1
        assert row["unit_boundary_recall"] >= row["boundary_recall"]
        assert row["bitrate"] == pytest.approx(25 * row["entropy"])
        assert row["seeds"] == 2
    assert as_table(rows).count("\n") == 3
    assert json.loads(json.dumps(rows)) == rows


def test_words_are_counted_for_units_of_the_bundled_vocoder_alone(four):
    encoder, book = load_encoder("compact"), load_codebook(bundled_codebook())
    (_, wave), *_ = read_speech(four, {})
    units = [book.assign(encoder.encode([wave])[0])]
    count = lambda command, hash=book.hash: word_errors(hash, units, [wave], ["Hello, there!"], command)  # noqa: E731
    assert count("printf 'hello there'") == {"word_error": 0.0, "word_error_recorded": 0.0}
    assert count("printf hello") == {"word_error": 50.0, "word_error_recorded": 50.0}
    assert count("printf hello", "another codebook") == {}
    with pytest.raises(ValueError, match="recogniser: nosuchprogram"):
        count("nosuchprogram")


def test_a_codebook_of_another_encoder_in_a_folder_is_refused(four, phones, tmp_path):
    items = speech_with_phones([four], phones[0], "pocketsphinx", set(), None, {})[:1]
    for name in ("config.json", "model.safetensors"):
        shutil.copy(BUNDLED["compact"] / name, tmp_path)
    shutil.copy(BUNDLED["compact-1"] / "codebook-3.safetensors", tmp_path)
    assert [row["codebook"] for row in compare([str(tmp_path)], [items[0].waveform], items, clusters=5)] == [
        "fitted, 5"
    ]
    with pytest.raises(ValueError, match=r"codebook.*encoder"):
        compare([f"{tmp_path}@3"], [items[0].waveform], items, clusters=5)


def test_speakers_can_be_chosen_and_their_seconds_bounded(four, phones):
    everyone = speech_with_phones([four], phones[0], "pocketsphinx", set(), None, {})
    name = everyone[0].speaker
    assert {
        item.speaker for item in speech_with_phones([four], phones[0], "pocketsphinx", {name}, None, {})
    } == {name}
    with pytest.raises(ValueError, match=r"got none of \['nobody'\]; it has"):
        speech_with_phones([four], phones[0], "pocketsphinx", {name, "nobody"}, None, {})
    with pytest.raises(ValueError, match="need at least one utterance with phones"):
        speech_with_phones([four], phones[0], "pocketsphinx", set(), 0.5, {})


def test_noise_is_as_loud_as_asked_and_repeats():
    wave = np.sin(np.arange(16_000) / 9).astype(np.float32)
    noisy = with_noise(wave, 20.0, 3)
    assert 10 * np.log10(np.mean(wave**2) / np.mean((noisy - wave) ** 2)) == pytest.approx(20, abs=0.2)
    assert np.array_equal(noisy, with_noise(wave, 20.0, 3))


def test_units_that_are_phones_tell_everything_about_a_new_speaker():
    class Oracle:
        frame_rate, hop, centre, minimum, dimension, provenance, identity = 25.0, 640, 320, 640, 1, {}, ""

        def encode(self, waveforms):
            return [np.sign(wave[320::640][: len(wave) // 640, None]) for wave in waveforms]

    from pipelines.reports import encoder_comparison as table
    from units.kmeans import Codebook

    wave = np.repeat(np.sign(np.random.default_rng(0).normal(size=100)), 640).astype(np.float32)
    phones = [("A" if wave[i * 640] > 0 else "B", i * 0.04, i * 0.04 + 0.04) for i in range(100)]
    items = [LabelledUtterance(wave, phones, "one"), LabelledUtterance(wave, phones, "other")]
    encoder = Oracle()
    shown = table.views(encoder, [wave, wave], (20.0,))
    result = table.score(encoder, Codebook(np.array([[1.0], [-1.0]])), shown, items, lambda frames: frames)
    assert result["pnmi"] == pytest.approx(1)
    assert result["xpnmi"] > 0.9
    assert result["same_at_20_db"] == result["same_at_gain"] == 1.0


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["compare", "mfcc"], 2, "Missing option '--speech'"),
        (["compare", "nothing@1", "--speech", "{four}", "--phones", "{phones}"], 1, "nothing"),
        (
            ["fit", "encoder", "{four}", "--output", "x", "--config", "{config}"],
            2,
            "config.toml: unknown key 'stepps'; known: ",
        ),
        (["fit", "encoder", "{four}", "--output", "x", "--phones", "{config}"], 2, "line 1: need"),
        (
            ["fit", "encoder", "{four}", "--output", "x", "--resume", "--steps", "1"],
            1,
            "no checkpoint to resume",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(words, code, line, four, phones, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.toml"
    config.write_text("stepps = 3\n")
    words = [word.format(four=four, phones=phones[0], config=config) for word in words]
    result = CliRunner().invoke(wordweave.cli, words)
    assert (result.exit_code, "Traceback" in result.output) == (code, False), result.output
    assert line in result.output


@pytest.fixture(scope="module")
def discophon(four, phones, tmp_path_factory):
    """Two recordings in the layout of discophon, one of them without audio."""
    from units.abx import triphones

    data = tmp_path_factory.mktemp("discophon")
    (data / "audio" / "eng" / "test").mkdir(parents=True)
    for name in ("alignment", "item"):
        (data / name).mkdir()
    labels = read_phones(phones[0])
    rows = [json.loads(line) for line in four.read_text().splitlines()]
    rows = [row for row in rows if row["id"] in labels][:3]
    aligned, items = (
        ["#file onset offset #phone"],
        ["#file onset offset #phone prev-phone next-phone speaker"],
    )
    for number, row in enumerate(rows):
        if number < 2:
            shutil.copy(four.parent / row["audio"], data / "audio" / "eng" / "test" / f"{row['id']}.wav")
        aligned += [f"{row['id']} {start} {end} {phone}" for phone, start, end in labels[row["id"]]]
        for one in triphones([labels[row["id"]]], [row["speaker"]]):
            fields = (row["id"], one.start, one.end, one.phone, *one.context, one.speaker)
            items.append(" ".join(map(str, fields)))
    (data / "alignment" / "alignment-eng-test.txt").write_text(
        "\n".join([*aligned, f"{rows[0]['id']} 90 91 SIL"])
    )
    (data / "item" / "triphone-eng-test.item").write_text("\n".join(items))
    return data, rows[:2], labels


def test_a_set_of_discophon_is_read_with_its_phones_speakers_and_items(discophon):
    from pipelines.reports.discophon import read_discophon

    data, rows, labels = discophon
    rejects: dict[str, int] = {}
    items, tokens = read_discophon(data, "eng-test", rejects)
    assert [(item.phones, item.speaker) for item in items] == [
        ([tuple(one) for one in labels[row["id"]]], row["speaker"])
        for row in sorted(rows, key=lambda row: row["id"])
    ]
    assert rejects == {"audio.missing": 1}
    assert {token.utterance for token in tokens} == {0, 1}


def test_compare_scores_a_set_of_discophon_and_refuses_another(discophon):
    data = discophon[0]
    words = ["compare", "mfcc", "--speech", str(data), "--clusters", "20", "--json"]
    done = CliRunner().invoke(wordweave.cli, [*words, "--discophon", "eng-test"])
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert 0 <= row["abx_within"] < 0.7
    for name, code, message in (
        ("eng-train", 1, "need LANGUAGE-dev or LANGUAGE-test"),
        ("deu-dev", 1, "alignment-deu-dev.txt: no such file; prepare the benchmark"),
    ):
        refused = CliRunner().invoke(wordweave.cli, [*words, "--discophon", name])
        assert (refused.exit_code, refused.stderr.count("\n")) == (code, 1)
        assert message in refused.stderr
    both = CliRunner().invoke(wordweave.cli, [*words, "--discophon", "eng-test", "--speaker", "anna"])
    assert both.exit_code == 2
