"""The length of a recording is what decodes: every container and codec, damaged in every way, against its decoder."""

import io
import struct
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus import audio
from corpus.audio import HARMLESS, Decoder, decode, read_header
from corpus.records import Reject, Utterance

CONTAINERS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "SVX", "NIST", "CAF", "FLAC", "OGG", "MP3")
"""Those that are read: their headers or pages say enough to tell a whole file from one that breaks off."""

UNUSABLE = [("AIFF", "DWVW_12"), ("AIFF", "DWVW_16"), ("AIFF", "DWVW_24")]
"""What soundfile writes and cannot read back."""


def signal(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    time = np.arange(round(seconds * rate))[:, None] / rate
    pitch = 150 + 60 * np.sin(2 * np.pi * time) + 50 * np.arange(channels)
    tone = np.sin(2 * np.pi * pitch * time) * (0.3 + 0.2 * np.sin(5 * time))
    return (tone * 0.5 + 0.01 * np.random.default_rng(0).standard_normal(tone.shape)).astype(np.float32)


def kinds() -> Iterator[tuple[str, str]]:
    for container in CONTAINERS:
        for encoding in soundfile.available_subtypes(container):
            if (container, encoding) not in UNUSABLE:
                try:
                    content_of(container, encoding, 0.1)
                except soundfile.LibsndfileError:  # a combination that libsndfile only reads
                    continue
                yield container, encoding


def content_of(container: str, encoding: str, seconds: float, channels: int = 1) -> bytes:
    rate = 8000 if encoding == "GSM610" else 16000
    file = io.BytesIO()
    soundfile.write(file, signal(seconds, rate, channels), rate, format=container, subtype=encoding)
    return file.getvalue()


KINDS = list(kinds())


def accounted(path, content: bytes) -> tuple[str, int]:
    """The reason with which a file is rejected, or '' and the frames that its row counts and that all decode."""
    path.write_bytes(content)
    try:
        header = read_header(path)
        if header.problem:
            return header.problem.reason, header.frames
        utterance = Utterance("u", str(path), header.frames, header.sample_rate)
        assert len(decode(utterance)) == utterance.samples
    except Reject as reject:
        return reject.reason, 0
    return "", header.frames


def frames_of(path) -> int:
    """The output of a reference decoder without options."""
    with soundfile.SoundFile(path) as sound:
        return len(sound.read(1 << 22, dtype="float32"))


@pytest.mark.parametrize(("container", "encoding"), KINDS, ids=str)
def test_a_whole_file_counts_what_its_decoder_gives(tmp_path, container, encoding):
    reason, frames = accounted(tmp_path / "a", content_of(container, encoding, 1.0))
    assert reason == ""
    assert frames == frames_of(tmp_path / "a")


@pytest.mark.parametrize(("container", "encoding"), KINDS, ids=str)
def test_a_file_that_breaks_off_anywhere_is_rejected_unless_it_lacks_next_to_nothing(
    tmp_path, container, encoding
):
    content = content_of(container, encoding, 1.0)
    _, whole = accounted(tmp_path / "a", content)
    rate = read_header(tmp_path / "a").sample_rate
    for cut in (*range(200, len(content), len(content) // 7), len(content) - 1):
        reason, frames = accounted(tmp_path / "a", content[:cut])
        assert reason or whole - frames <= (HARMLESS + 0.01) * rate, cut
        assert reason in ("", "audio.truncated", "audio.unreadable", "audio.empty", "audio.length_mismatch")


@pytest.mark.parametrize(("container", "encoding"), KINDS, ids=str)
def test_two_files_joined_are_rejected_and_never_taken_for_the_first(tmp_path, container, encoding):
    content = content_of(container, encoding, 1.0)
    reason, _ = accounted(tmp_path / "a", content + content_of(container, encoding, 1.3))
    assert reason == "audio.length_mismatch"
    assert accounted(tmp_path / "a", content + content)[0] == "audio.length_mismatch"


TAGS = {
    "ID3": b"ID3\x04\0\0\0\0\x07\x68" + bytes(1000),
    "APE": b"APETAGEX" + struct.pack("<4I", 2000, 232, 1, 0x80000000 | 0x20000000) + bytes(208),
    "APE's end": b"APETAGEX" + struct.pack("<4I", 2000, 32, 1, 0x80000000) + bytes(8),
    "ID3v1": b"TAG" + b"x" * 125,
    "lyrics": b"LYRICSBEGININD00002100000017LYRICS200",
}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("container", ["WAV", "AU", "OGG", "FLAC", "MP3"])
def test_a_tag_between_two_joined_files_does_not_hide_the_second(tmp_path, container, tag):
    encoding = soundfile.default_subtype(container)
    content = content_of(container, encoding, 1.0)
    assert accounted(tmp_path / "a", content + TAGS[tag])[0] == ""
    assert accounted(tmp_path / "a", content + TAGS[tag] + content)[0] == "audio.length_mismatch"


@pytest.mark.parametrize(("container", "encoding"), KINDS, ids=str)
def test_padding_and_tags_after_the_audio_are_harmless(tmp_path, container, encoding):
    content = content_of(container, encoding, 1.0)
    _, whole = accounted(tmp_path / "a", content)
    for tail in (bytes(100), b"TAG" + b"title".ljust(125, b"\0")):
        reason, frames = accounted(tmp_path / "a", content + tail)
        assert reason == "", tail
        if encoding not in (
            "G721_32",
            "G723_24",
            "G723_40",
            "IMA_ADPCM",
        ):  # libsndfile decodes what follows, too
            assert frames == whole


@given(
    kind=st.sampled_from(KINDS),
    edits=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_after_any_edit_of_its_header_a_file_is_rejected_or_counts_what_its_decoder_gives(
    tmp_path_factory, kind, edits
):
    content = bytearray(content_of(*kind, 0.3))
    for place, value in edits:
        content[min(place, len(content) - 1)] = value
    path = tmp_path_factory.getbasetemp() / "edited"
    reason, frames = accounted(path, bytes(content))
    if not reason and kind[0] != "MP3":  # libsndfile believes a Xing tag that the frames belie
        assert 0 <= frames_of(path) - frames <= HARMLESS * read_header(path).sample_rate


STRETCHED = [*KINDS, ("MP3", "VBR")]


@pytest.mark.parametrize(("container", "encoding"), STRETCHED, ids=str)
def test_any_stretch_has_the_samples_of_the_whole_decode(tmp_path, container, encoding):
    path, rate = tmp_path / "a", 8000 if encoding == "GSM610" else 16000
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.3} if encoding == "VBR" else {}
    encoding = "MPEG_LAYER_III" if encoding == "VBR" else encoding
    soundfile.write(path, signal(12, rate), rate, format=container, subtype=encoding, **options)
    frames = read_header(path).frames
    with soundfile.SoundFile(path) as sound:
        whole = sound.read(1 << 22, dtype="float32")
    assert len(whole) == frames
    rng, decoder = np.random.default_rng(0), Decoder()
    recording = audio._open(str(path), whole=True)
    for _ in range(25):
        first = int(rng.integers(frames))
        count = int(rng.integers(1, min(frames - first, rate) + 1))
        expected = whole[first : first + count]
        assert np.array_equal(recording.read(first, count)[:, 0], expected)
        if rate == 16000:
            utterance = Utterance("u", str(path), count, rate, first)
            assert np.array_equal(decode(utterance), expected)
            assert np.array_equal(decoder.decode(utterance), expected)
    recording.close()
    decoder.close()


def test_stretches_in_order_are_decoded_in_one_pass(tmp_path, monkeypatch):
    path = tmp_path / "a.opus"
    soundfile.write(path, signal(30, 16000), 16000, format="OGG", subtype="OPUS")
    decoded = []
    read = audio._read
    monkeypatch.setattr(audio, "_read", lambda sound, count: decoded.append(count) or read(sound, count))
    decoder = Decoder()
    for first in range(0, 480_000 - 16_000, 24_000):
        decoder.decode(Utterance("u", str(path), 16_000, 16_000, first))
    decoder.close()
    assert sum(decoded) < 480_000


def test_a_late_stretch_of_an_mp3_decodes_no_more_than_an_early_one(tmp_path, monkeypatch):
    path = tmp_path / "a.mp3"
    soundfile.write(path, signal(120, 16000), 16000, bitrate_mode="VARIABLE", compression_level=0.3)
    decoded = []
    read = audio._read
    monkeypatch.setattr(audio, "_read", lambda sound, count: decoded.append(count) or read(sound, count))
    for first in (2, 115):
        decode(Utterance("u", str(path), 16_000, 16_000, first * 16_000))
    assert sum(decoded) < 2 * 16_000 + 2 * 20 * 576


def test_an_mp3_without_a_tag_is_read_to_its_end(tmp_path):
    whole = content_of("MP3", "MPEG_LAYER_III", 2.0)
    soundfile.write(
        tmp_path / "v.mp3", signal(2, 16000), 16000, bitrate_mode="VARIABLE", compression_level=0.5
    )
    for content in (whole, (tmp_path / "v.mp3").read_bytes()):
        second = content.index(b"\xff\xf3", content.index(b"LAME"))
        reason, frames = accounted(tmp_path / "a.mp3", content[second:])
        assert reason == ""
        assert frames >= 32_000


@pytest.mark.parametrize("factor", [0.5, 2, 1.1, 0.9])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_whose_tag_is_wrong_is_rejected(tmp_path, factor, mode):
    path = tmp_path / "a.mp3"
    soundfile.write(path, signal(10, 16000), 16000, bitrate_mode=mode, compression_level=0.5)
    content = bytearray(path.read_bytes())
    tag = content.index(b"Xing" if mode == "VARIABLE" else b"Info") + 8
    frames = int.from_bytes(content[tag : tag + 4], "big")
    content[tag : tag + 4] = round(frames * factor).to_bytes(4, "big")
    assert accounted(path, bytes(content))[0] in ("audio.length_mismatch", "audio.truncated")
    assert (
        accounted(path, bytes(content[:tag]) + frames.to_bytes(4, "big") + bytes(content[tag + 4 :]))[0] == ""
    )


@pytest.mark.parametrize("front", [b"ID3\x03\0\0\0\0\x4e\x20" + bytes(10016), bytes(700), b"junk" * 50])
def test_an_mp3_starts_after_tags_and_other_bytes(tmp_path, front):
    content = content_of("MP3", "MPEG_LAYER_III", 2.0)
    assert accounted(tmp_path / "a.mp3", front + content) == ("", 32_000)


@pytest.mark.parametrize(
    ("change", "reason"),
    [(1, ""), (2, ""), (36, ""), (44, ""), (-16_000, "audio.length_mismatch"), (16_000, "audio.truncated")],
)
def test_a_wav_whose_size_is_a_little_off_is_read_and_else_both_lengths_are_named(tmp_path, change, reason):
    content = bytearray(content_of("WAV", "PCM_16", 1.0))
    content[40:44] = (32_000 + change).to_bytes(4, "little")
    assert accounted(tmp_path / "a.wav", bytes(content))[0] == reason
    if reason:
        detail = read_header(tmp_path / "a.wav").problem.detail
        assert "declares" in detail
        assert "holds" in detail


def test_a_wav_may_hold_other_chunks_before_and_after_and_an_odd_one(tmp_path):
    content = content_of("WAV", "PCM_16", 1.0)
    odd = content[:40] + (31_999).to_bytes(4, "little") + content[44:-1]
    for changed in (
        content[:36] + b"LIST" + (393_164).to_bytes(4, "little") + bytes(393_164) + content[36:],
        content + b"LIST" + (30_000).to_bytes(4, "little") + b"x" * 30_000,
        odd + b"LIST" + (4).to_bytes(4, "little") + b"INFO",
        odd + b"\0LIST" + (4).to_bytes(4, "little") + b"INFO",
        b"ID3\x03\0\0\0\0\0\x10" + bytes(16) + content,
        content + bytes(5000),
    ):
        reason, frames = accounted(tmp_path / "a.wav", changed)
        assert reason == ""
        assert frames in (15_999, 16_000)


@pytest.mark.parametrize(
    ("encoding", "factor"), [("PCM_16", 0.5), ("PCM_16", 2), ("PCM_24", 0.9), ("PCM_S8", 1.5)]
)
def test_a_flac_whose_header_counts_other_samples_is_rejected_with_both_lengths(tmp_path, encoding, factor):
    path = tmp_path / "a.flac"
    path.write_bytes(with_total(content_of("FLAC", encoding, 2.0), round(32000 * factor)))
    header = read_header(path)
    assert header.problem.reason == ("audio.truncated" if factor > 1 else "audio.length_mismatch")
    assert f"declares {2 * factor:.3f} s, holds 2.000 s" in header.problem.detail
    assert header.frames == 32000


def test_a_flac_of_unknown_length_is_read(tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(content_of("FLAC", "PCM_16", 2.0))
    whole = soundfile.read(path, dtype="float32")[0]
    path.write_bytes(with_total(path.read_bytes(), 0))
    with closing(Decoder()) as decoder:
        for first, count in ((0, 32000), (30_000, 1000), (5000, 9000)):
            found = decoder.decode(Utterance("u", str(path), count, 16000, first))
            assert np.array_equal(found, whole[first : first + count])


def with_total(flac: bytes, samples: int) -> bytes:
    """A FLAC file whose header declares a number of samples; 0: it is not known."""
    field = int.from_bytes(flac[18:26], "big") >> 36 << 36 | samples
    return flac[:18] + field.to_bytes(8, "big") + flac[26:]


@pytest.mark.parametrize("encoding", ["PCM_16", "FLOAT"])
def test_a_wav_whose_header_was_never_completed_is_rejected_with_both_lengths(tmp_path, encoding):
    content = bytearray(content_of("WAV", encoding, 1.0))
    place = content.index(b"data")
    content[place + 4 : place + 8] = bytes(4)
    (tmp_path / "a.wav").write_bytes(content)
    assert "declares 0.000 s, holds 1.000 s" in read_header(tmp_path / "a.wav").problem.detail


@pytest.mark.parametrize("encoding", ["VORBIS", "OPUS"])
def test_an_ogg_whose_last_page_ends_before_the_one_before_is_truncated(tmp_path, encoding):
    content = bytearray(content_of("OGG", encoding, 5.0))
    place = content.rindex(b"OggS")
    content[place + 6 : place + 14] = (20_000).to_bytes(8, "little")
    path = tmp_path / "a.ogg"
    path.write_bytes(content)
    assert "its last Ogg page ends at sample 20000" in read_header(path).problem.detail


def test_an_mp3_with_other_bytes_between_its_frames_is_not_called_truncated(tmp_path):
    content = content_of("MP3", "MPEG_LAYER_III", 3.0)
    middle = content.index(content[:2], len(content) // 2)
    path = tmp_path / "a.mp3"
    path.write_bytes(content[:middle] + b"\1" * 700 + content[middle:])
    problem = read_header(path).problem
    assert problem.reason == "audio.length_mismatch"
    assert "bytes that do not continue them" in problem.detail


@pytest.mark.parametrize("container", ["AVR", "IRCAM", "MAT5", "PAF", "PVF", "VOC", "WVE", "XI"])
def test_a_container_that_does_not_tell_whether_it_is_whole_is_refused_with_the_way_out(tmp_path, container):
    encoding = soundfile.available_subtypes(container)
    rate = 8000 if container == "WVE" else 16000
    kind = next(iter(encoding))
    soundfile.write(tmp_path / "a", signal(1, rate), rate, format=container, subtype=kind)
    with pytest.raises(Reject, match=r"audio\.unreadable"):
        read_header(tmp_path / "a")


def test_an_ogg_without_its_last_page_or_one_between_is_truncated(tmp_path):
    content = content_of("OGG", "VORBIS", 8.0)
    pages = [content.index(b"OggS")]
    while (place := content.find(b"OggS", pages[-1] + 1)) > 0:
        pages.append(place)
    assert len(pages) > 4
    assert accounted(tmp_path / "a.ogg", content[: pages[-1]])[0] == "audio.truncated"
    hole = content[: pages[-3]] + content[pages[-2] :]
    assert accounted(tmp_path / "a.ogg", hole)[0] == "audio.truncated"


def test_damaged_mp3_frames_print_nothing(tmp_path, capfd):
    content = bytearray(content_of("MP3", "MPEG_LAYER_III", 3.0))
    rng = np.random.default_rng(0)
    for place in rng.integers(1000, len(content), 60):
        if content[place] != 255:
            content[place] = int(rng.integers(255))
    accounted(tmp_path / "a.mp3", bytes(content))
    assert capfd.readouterr().err == ""
