"""A small spoken corpus, synthesised by espeak-ng from the stories of `corpus.synthetic.grammar`.

It has what a real corpus has (several speakers, recordings, transcripts, text that was not spoken) and what a real
one never has: the true time of every word. espeak-ng keeps a hidden state, so that the same sentence sounds a little
different from call to call. Each utterance is therefore spoken in a process of its own, forked from one that has not
spoken yet: `python -m corpus.synthetic.speech` is that process, and `synthesise` starts it.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from corpus.files import write_lines
from corpus.keyed import generator
from corpus.synthetic.grammar import Story
from corpus.synthetic.grammar import story as make_story
from corpus.synthetic.neural import neural_speaker, speak_neural

# Language and variant: of 26 pairs, those that pocketsphinx aligns best (score per frame above -25 at medium pitch).
# A wrong name need not fail: "en-gb" is refused, but an unknown variant silently gives the plain voice.
VOICES = [
    *("en-us+f1", "en-us+m1", "en-gb-x-rp+f2", "en-gb-x-rp+m6", "en-us+f3", "en-us+m3"),
    *("en-gb-x-rp+f5", "en-us+m6", "en-us+f2", "en-us+m5", "en-us+f5"),
]
SILENCE = 0.1  # seconds before and after the speech
ROOM = 4.0  # standard deviation of the background noise, of 32767: no recording is digitally silent
LOUDNESS = 60  # of espeak-ng's volume 100, which clips


def synthesise(
    folder: str | os.PathLike[str],
    *,
    utterances: int = 200,
    voices: int = 8,
    documents: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a spoken corpus: `manifest.jsonl`, `audio/*.flac`, `alignments/*.TextGrid` and `text.txt`.

    The manifest is as `corpus.adapters.read_jsonl` reads it. A TextGrid has one tier, `words`: the words of the
    transcript and their true times; the time between them is silence. `text.txt` has one story per line, none of
    which was spoken. The same arguments give the same bytes.

    Args:
        folder: is made; files of an earlier corpus are overwritten.
        utterances: number of recordings, each a story of 17 to 56 words, about 12 s on average.
        voices: number of speakers; they take turns.
        documents: number of lines of text.txt; by default four for each utterance.
        progress: is called with (utterances done, utterances).

    Returns:
        The path of manifest.jsonl, which is written last.

    Raises:
        ValueError: a number is out of range, or the package espeakng-loader is missing.
    """
    documents = 4 * utterances if documents is None else documents
    if utterances < 1 or voices < 1 or documents < 0:
        raise ValueError(
            f"synth: need utterances >= 1, voices >= 1, documents >= 0, got {utterances}, {voices}, {documents}"
        )
    folder = Path(folder)
    for name in ("audio", "alignments"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    speakers = [speaker(number, seed) for number in range(voices)]
    spoken = [_story(seed, "speech", number) for number in range(utterances)]
    lines = []
    for number, story in enumerate(spoken):
        voice = speakers[number % voices]
        lines.append(
            {
                "id": f"{voice['speaker']}-{number:05d}",
                "audio": f"audio/{voice['speaker']}-{number:05d}.flac",
                "alignment": f"alignments/{voice['speaker']}-{number:05d}.TextGrid",
                "text": story.text,
                "topic": story.topic,
                "lang": "en",
                "license": "CC0-1.0",
                **voice,
            }
        )
    for done, seconds in enumerate(speak_all(folder, lines), start=1):
        lines[done - 1]["duration_s"] = seconds
        if progress:
            progress(done, utterances)
    write_lines(folder / "text.txt", _unspoken(spoken, documents, seed))
    write_lines(folder / "manifest.jsonl", map(json.dumps, lines))
    return folder / "manifest.jsonl"


def speaker(number: int, seed: int, rates: tuple[int, int] = (120, 160)) -> dict[str, Any]:
    """A speaker's name and how espeak-ng makes the voice: rate in words a minute, pitch and its range of 100."""
    rng = generator(seed, "speaker", str(number))
    return {
        "speaker": f"synth{number:02d}",
        "voice": VOICES[number % len(VOICES)],
        "rate": int(rng.integers(rates[0], rates[1] + 1)),
        "pitch": int(rng.integers(35, 66)),
        "range": int(rng.integers(35, 66)),
    }


def _story(seed: int, stream: str, number: int) -> Story:
    return make_story(generator(seed, f"{stream} story", str(number)))


def _unspoken(spoken: list[Story], documents: int, seed: int) -> Iterator[str]:
    """Stories that are not among the spoken ones. Single sentences do occur in both."""
    texts = {story.text for story in spoken}
    number = 0
    while documents:
        story = _story(seed, "text", number)
        number += 1
        if story.text not in texts:
            documents -= 1
            yield story.text


SYNTHESISERS = ("espeak", "hibari")


def speaker_by(synthesiser: str, number: int, seed: int, rates: tuple[int, int]) -> dict[str, Any]:
    """A speaker of one of SYNTHESISERS, as `speak_all` takes it."""
    if synthesiser not in SYNTHESISERS:
        raise ValueError(f"synthesiser: need one of {', '.join(SYNTHESISERS)}, got {synthesiser!r}")
    return neural_speaker(number, seed) if synthesiser == "hibari" else speaker(number, seed, rates)


def speak_all(folder: Path, lines: list[dict[str, Any]]) -> Iterator[float]:
    """Speak utterances with the synthesiser that each names (`synthesiser`, without it espeak-ng); yield the seconds
    of each, in order."""
    for name, group in groupby(lines, key=lambda line: line.get("synthesiser", "espeak")):
        yield from (speak_neural if name == "hibari" else speak_formant)(folder, list(group))


def speak_formant(folder: Path, lines: list[dict[str, Any]]) -> Iterator[float]:
    """Speak utterances with espeak-ng in a fresh process; yield the seconds of each, in order.

    Args:
        lines: of each utterance `id`, `audio` (where to, below the folder), `text`, `voice`, `rate`, `pitch` and
            `range`; `alignment` (where to, below the folder) where the word times are wanted.
    """
    if find_spec("espeakng_loader") is None:
        raise ValueError('synth: needs espeak-ng; pip install "wordweave[demo]"')
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
        "OPENBLAS_NUM_THREADS": "1",  # no threads in a process that forks
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryFile("w+") as plan:  # a file, not a pipe: neither side can block the other
        plan.writelines(json.dumps(line) + "\n" for line in lines)
        plan.seek(0)
        command = [sys.executable, "-m", "corpus.synthetic.speech", os.fspath(folder)]
        with subprocess.Popen(
            command, stdin=plan, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout
            yield from map(float, process.stdout)
    if process.returncode:
        raise RuntimeError("synth: espeak-ng failed, see above")


# --- what follows runs in the process of its own ---


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),
    ]


WORD, PHONEME = 1, 7  # espeak_EVENT_TYPE
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4  # espeak_PARAMETER
SYNCHRONOUS, PHONEME_EVENTS, DO_NOT_EXIT, UTF8 = 2, 1, 1 << 15, 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class _Espeak:
    """espeak-ng, ready to speak once."""

    def __init__(self) -> None:
        import espeakng_loader

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path()
        options = PHONEME_EVENTS | DO_NOT_EXIT
        self.sample_rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), options)
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak_Initialize: returned {self.sample_rate}, data in {data}")
        self.pcm: list[bytes] = []
        self.events: list[tuple[int, int, bytes]] = []  # type, sample, phoneme
        self.callback = _Callback(self._receive)  # kept, or it is collected while espeak-ng holds its address
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self.pcm.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type:
            event = events[index]
            self.events.append((event.type, event.sample, event.phoneme if event.type == PHONEME else b""))
            index += 1
        return 0

    def speak(self, text: str, voice: str, rate: int, pitch: int, range: int) -> np.ndarray:
        """Speak once: (T,) int16 at `sample_rate`."""
        # otherwise the time of day is the seed of breathy voices
        _require("espeak_ng_SetRandSeed", self.library.espeak_ng_SetRandSeed(ctypes.c_long(1)), 1)
        _require("espeak_SetVoiceByName", self.library.espeak_SetVoiceByName(voice.encode()), voice)
        settings = {RATE: rate, VOLUME: LOUDNESS, PITCH: pitch, RANGE: range}
        for parameter, value in settings.items():
            _require("espeak_SetParameter", self.library.espeak_SetParameter(parameter, value, 0), value)
        encoded = text.encode()
        size = len(encoded) + 1
        _require("espeak_Synth", self.library.espeak_Synth(encoded, size, 0, 1, 0, UTF8, None, None), text)
        return np.frombuffer(b"".join(self.pcm), np.int16)

    def word_times(self) -> list[tuple[int, int]]:
        """Start and end sample of every word: it ends where a pause or the next word begins."""
        end = sum(map(len, self.pcm)) // 2
        times = []
        start = pause = None
        for kind, sample, phoneme in [*self.events, (WORD, end, b"")]:
            if kind == WORD:
                if start is not None:
                    times.append((start, sample if pause is None else pause))
                start, pause = sample, None
            elif kind == PHONEME and not phoneme.startswith(b"_"):
                pause = None
            elif kind == PHONEME and pause is None:
                pause = sample
        return times


def _require(call: str, status: int, value: object) -> None:
    if status:
        raise RuntimeError(f"{call}: returned {status} for {value!r}")


def _for_espeak(text: str) -> str:
    """Put a zero width space before words: "in the" would be one event, and "end. it" would have no pause."""
    return text.replace(" ", " \u200b")


def _speak(espeak: _Espeak, folder: Path, line: dict[str, Any]) -> float:
    """Speak one utterance and write its recording and its word times; return its seconds."""
    speech = espeak.speak(
        _for_espeak(line["text"]), line["voice"], line["rate"], line["pitch"], line["range"]
    )
    rate = espeak.sample_rate
    words, times = line["text"].replace(",", "").replace(".", "").split(), espeak.word_times()
    if "alignment" in line and len(words) != len(times):
        raise RuntimeError(f"{line['id']}: {len(words)} words, espeak-ng spoke {len(times)}: {line['text']}")
    edge = round(SILENCE * rate)
    waveform = np.pad(speech.astype(np.float64), edge)
    waveform += ROOM * generator(0, "room", line["id"]).standard_normal(len(waveform))
    soundfile.write(folder / line["audio"], np.rint(waveform).clip(-32768, 32767).astype(np.int16), rate)

    seconds = round(len(waveform) / rate, 6)
    if "alignment" not in line:
        return seconds
    from praatio import textgrid

    entries = [
        (round((start + edge) / rate, 6), round((end + edge) / rate, 6), word)
        for word, (start, end) in zip(words, times, strict=True)
    ]
    grid = textgrid.Textgrid()
    grid.addTier(textgrid.IntervalTier("words", entries, 0, seconds))
    grid.save(str(folder / line["alignment"]), format="long_textgrid", includeBlankSpaces=True)
    return seconds


def main() -> None:
    """Speak the utterances that stdin describes, a JSON object a line; print the seconds of each, in order.

    As many at a time as there are cores: each in a process of its own anyway.
    """
    folder = Path(sys.argv[1])
    espeak = _Espeak()
    speaking: deque[tuple[int, int]] = deque()
    for line in sys.stdin:
        speaking.append(_begin(espeak, folder, json.loads(line)))
        if len(speaking) == (os.cpu_count() or 1):
            _end(*speaking.popleft())
    while speaking:
        _end(*speaking.popleft())


def _begin(espeak: _Espeak, folder: Path, line: dict[str, Any]) -> tuple[int, int]:
    """Speak in a child; its number and the end of the pipe from which to read the seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, f"{_speak(espeak, folder, line)}\n".encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    return child, reading


def _end(child: int, reading: int) -> None:
    """Wait for a child and pass on what it wrote."""
    with open(reading, "rb") as pipe:
        seconds = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        sys.exit(1)
    os.write(1, seconds)


if __name__ == "__main__":
    main()
