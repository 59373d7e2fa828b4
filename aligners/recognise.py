"""Speech to text: a Hugging Face model for speech recognition, or a command, as one kind of recogniser.

A model is a directory or hub name that transformers loads, with a CTC head (Wav2Vec2, HuBERT, Parakeet-CTC ...) or with
a decoder (Whisper, Moonshine ...). A command is called with the path of a WAV as its last argument, and prints the
transcript, or {"text": "...", "words": [{"text": "...", "confidence": 0.9}]}; or, with {list} in its arguments, with a
file that lists several, and prints such an object in a line for each.

On a CPU recordings are computed one by one, so that a result does not depend on the others; on a GPU in batches,
which may change the last bits of a confidence and, rarely, a word.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import wave as wave_file
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from aligners.acoustics import weights_hash
from corpus import files
from corpus.quality import tokens_of
from corpus.records import SAMPLE_RATE, Reject

WINDOW = 30.0  # seconds that a model is given at most
SEARCH = 6.0  # seconds before the end of a window in which it is cut at the quietest place
TOKENS = 15.0  # per second of speech, and a few more: a decoder that repeats itself ends there
FEWEST_TOKENS = 16
OUTPUT = 1 << 16  # bytes of a command's output; it is ended beyond


class RecognisedWord(NamedTuple):
    """A word with the mean probability of its tokens, None where the recogniser gives none."""

    text: str
    confidence: float | None


class Transcript(NamedTuple):
    """What a recogniser makes of one recording."""

    words: tuple[RecognisedWord, ...]

    @property
    def text(self) -> str:
        """The words in one line."""
        return " ".join(word.text for word in self.words)

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the words; None without any."""
        known = [word.confidence for word in self.words if word.confidence is not None]
        return float(np.mean(known)) if known else None


class Recording(NamedTuple):
    """(T,) float32 at 16 kHz, and the declared language or None."""

    waveform: np.ndarray
    language: str | None = None


class Recogniser(Protocol):
    """Transcribes recordings."""

    @property
    def identity(self) -> str:
        """Everything that decides its transcripts."""
        ...

    def transcribe(self, recordings: Sequence[Recording]) -> list[Transcript | Reject]:
        """One result for each recording, in order."""
        ...


def windows_of(waveform: np.ndarray, seconds: float = WINDOW) -> list[np.ndarray]:
    """A recording in pieces of at most `seconds`, cut where it is quietest.

    >>> [len(piece) / 16_000 for piece in windows_of(np.zeros(16_000 * 70))]
    [24.0, 24.0, 22.0]
    """
    longest, search = int(seconds * SAMPLE_RATE), int(SEARCH * SAMPLE_RATE)
    block = SAMPLE_RATE // 10
    pieces = []
    while len(waveform) > longest:
        tail = waveform[longest - search : longest].reshape(-1, block)
        at = longest - search + int(np.argmin(np.einsum("bt,bt->b", tail, tail))) * block
        pieces.append(waveform[:at])
        waveform = waveform[at:]
    return [*pieces, waveform]


# Models ------------------------------------------------------------------------------------------------------------


class TokenProbabilities(NamedTuple):
    """Tokens of one piece of sound, and the probability of each."""

    tokens: list[int]
    probabilities: list[float]


class ModelRecogniser:
    """A recogniser of transformers."""

    def __init__(self, model: str, device: str = "cpu", dtype: str = "float32", batch: int | None = None):
        """
        Args:
            batch: pieces of at most 30 s per forward pass; None: 1 on a CPU, 16 on a GPU.

        Raises:
            ValueError: it cannot be loaded, or is no model for speech recognition.
        """
        self.model, self.device = model, device
        self.batch = (16 if device.startswith("cuda") else 1) if batch is None else batch
        self._loaded = load_model(model, device, dtype)
        self.identity = self._loaded.identity

    def transcribe(self, recordings: Sequence[Recording]) -> list[Transcript | Reject]:
        """One result for each recording, in order; one that the model cannot use is a Reject."""
        pieces = [
            (number, piece, recording.language)
            for number, recording in enumerate(recordings)
            for piece in windows_of(recording.waveform)
        ]
        # neighbours of one language and of similar length share a batch, with little padding
        order = sorted(range(len(pieces)), key=lambda at: (pieces[at][2] or "", -len(pieces[at][1]), at))
        words: list[tuple[RecognisedWord, ...] | Reject] = [()] * len(pieces)
        for language, group in itertools.groupby(order, key=lambda at: pieces[at][2]):
            for places in batched(group, self.batch):
                results = self._recognise([pieces[at][1] for at in places], language)
                for at, result in zip(places, results, strict=True):
                    words[at] = result
        results_of: list[list[tuple[RecognisedWord, ...] | Reject]] = [[] for _ in recordings]
        for (number, _, _), result in zip(pieces, words, strict=True):
            results_of[number].append(result)
        return [join(results) for results in results_of]

    def _recognise(
        self, waveforms: Sequence[np.ndarray], language: str | None
    ) -> list[tuple[RecognisedWord, ...] | Reject]:
        """Words of one batch; where it fails, of each alone."""
        try:
            found = self._loaded.recognise(waveforms, language)
            return [words_of_tokens(self._loaded.decode, one) for one in found]
        except (ValueError, RuntimeError, IndexError) as error:
            if is_fatal(error):
                raise
            if len(waveforms) == 1:
                return [Reject("transcribe.failed", f"{self.model}: {type(error).__name__}: {error}"[:300])]
            return [one for waveform in waveforms for one in self._recognise([waveform], language)]


def is_fatal(error: BaseException) -> bool:
    """Whether an error is of the device, not of the recording."""
    return type(error).__name__ in ("AcceleratorError", "OutOfMemoryError") or "CUDA error" in str(error)


def batched(items: Iterable[int], size: int) -> Iterator[list[int]]:
    """Lists of at most `size` items (itertools.batched is of Python 3.12)."""
    rest = iter(items)
    while group := list(itertools.islice(rest, size)):
        yield group


def join(results: Sequence[tuple[RecognisedWord, ...] | Reject]) -> Transcript | Reject:
    """The transcript of a recording from those of its pieces, or the first reason why there is none."""
    words: list[RecognisedWord] = []
    for result in results:
        if isinstance(result, Reject):
            return result
        words += result
    return Transcript(tuple(words))


def words_of_tokens(
    decode: Callable[[Sequence[int]], str], found: TokenProbabilities
) -> tuple[RecognisedWord, ...]:
    """Words and their confidence from tokens: a token belongs to the word that is last once it is decoded."""
    texts = decode(found.tokens).split()
    if not texts:
        return ()
    owners = [
        min(max(len(decode(found.tokens[: count + 1]).split()) - 1, 0), len(texts) - 1)
        for count in range(len(found.tokens))
    ]
    sums: list[list[float]] = [[] for _ in texts]
    for owner, probability in zip(owners, found.probabilities, strict=True):
        sums[owner].append(probability)
    return tuple(
        RecognisedWord(text, float(np.mean(own)) if own else None)
        for text, own in zip(texts, sums, strict=True)
    )


class LoadedModel(NamedTuple):
    """A model on its device: waveforms of a batch -> tokens; tokens -> text."""

    recognise: Callable[[Sequence[np.ndarray], str | None], list[TokenProbabilities]]
    decode: Callable[[Sequence[int]], str]
    identity: str


@functools.lru_cache(maxsize=2)
def load_model(model: str, device: str, dtype: str) -> LoadedModel:
    """A model by directory or hub name, once per process.

    Raises:
        ValueError: it cannot be loaded, or is no model for speech recognition.
    """
    import torch
    import transformers
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModelForCTC,
        AutoModelForSpeechSeq2Seq,
        AutoTokenizer,
    )

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(model)
        ctc = any(name.endswith("CTC") for name in config.architectures or [])
        kind = AutoModelForCTC if ctc else AutoModelForSpeechSeq2Seq
        extractor = AutoFeatureExtractor.from_pretrained(model)
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = kind.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
    except (OSError, ValueError, KeyError) as error:
        line = str(error).strip().splitlines()[0]
        raise ValueError(
            f"transcribe: {model}: need a directory or hub name of a model for speech recognition with its tokenizer "
            f"and feature extractor: {line}"
        ) from error
    try:
        network = network.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises either where it has no such device
        line = str(error).strip().splitlines()[0]
        raise ValueError(
            f"transcribe.device: need a device that torch can use, got {device!r}: {line}"
        ) from error
    parts = (config, network.generation_config, extractor) if not ctc else (config, extractor)
    records = [{k: v for k, v in one.to_dict().items() if k != "_name_or_path"} for one in parts]
    content = json.dumps([*records, tokenizer.get_vocab()], sort_keys=True, default=str)
    digest = hashlib.sha256((content + weights_hash(network)).encode()).hexdigest()[:16]
    identity = f"transformers {transformers.__version__} {dtype} {digest}"
    recognise = functools.partial(recognise_ctc if ctc else generate, network, extractor)
    more = {"group_tokens": False} if ctc else {}  # runs are collapsed already

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True, **more))

    return LoadedModel(recognise, decode, identity)


def model_inputs(
    network: Any, extractor: Any, waveforms: Sequence[np.ndarray], **more: Any
) -> dict[str, Any]:
    """The features of a batch on the device of the model, in its dtype."""
    features = extractor(list(waveforms), sampling_rate=SAMPLE_RATE, return_tensors="pt", **more)
    return {
        name: value.to(network.device, network.dtype)
        if value.is_floating_point()
        else value.to(network.device)
        for name, value in features.items()
    }


def recognise_ctc(
    network: Any, extractor: Any, waveforms: Sequence[np.ndarray], language: str | None
) -> list[TokenProbabilities]:
    """Most probable token of each frame, repetitions and blanks removed; the probability of its best frame."""
    import torch

    inputs = model_inputs(network, extractor, waveforms, padding=True)
    frames_of = output_lengths(network)
    group_norm = getattr(network.config, "feat_extract_norm", "layer") == "group"
    if len(waveforms) > 1 and (group_norm or frames_of is None or "attention_mask" not in inputs):
        # padding would change the result
        return [one for wave in waveforms for one in recognise_ctc(network, extractor, [wave], language)]
    with torch.inference_mode():
        logits = network(**inputs).logits.float()
    probabilities, tokens = (one.cpu().numpy() for one in torch.softmax(logits, -1).max(-1))
    lengths = [tokens.shape[1]]
    if len(waveforms) > 1:
        assert frames_of is not None
        lengths = frames_of(inputs["attention_mask"].sum(-1)).tolist()
    return [
        collapse(one[:length], some[:length], network.config.pad_token_id)
        for one, some, length in zip(tokens, probabilities, lengths, strict=True)
    ]


def output_lengths(network: Any) -> Callable[[Any], Any] | None:
    """Lengths of inputs -> frames of the output, as the model computes them; None where it has no such function."""
    for owner in (network, getattr(network, "encoder", None)):
        for name in ("_get_feat_extract_output_lengths", "_get_subsampling_output_length"):
            if function := getattr(owner, name, None):
                return function
    return None


def collapse(tokens: np.ndarray, probabilities: np.ndarray, blank: int) -> TokenProbabilities:
    """CTC: runs of one token become one, blanks none.

    >>> collapse(np.array([0, 5, 5, 0, 5, 7]), np.array([1, 0.5, 0.75, 1, 0.5, 0.25]), 0)
    TokenProbabilities(tokens=[5, 5, 7], probabilities=[0.75, 0.5, 0.25])
    """
    starts = np.flatnonzero(np.diff(tokens, prepend=-1))
    best = np.maximum.reduceat(probabilities, starts) if len(starts) else np.zeros(0)
    kept = tokens[starts] != blank
    return TokenProbabilities(tokens[starts][kept].tolist(), [float(one) for one in best[kept]])


def generate(
    network: Any, extractor: Any, waveforms: Sequence[np.ndarray], language: str | None
) -> list[TokenProbabilities]:
    """Greedy decoding, at most 15 tokens per second of speech."""
    import torch

    inputs = model_inputs(network, extractor, waveforms)
    generation = network.generation_config
    longest = (getattr(network.config, "max_target_positions", None) or 448) - 8  # with room for a prompt
    limits = [min(longest, FEWEST_TOKENS + math.ceil(TOKENS * len(one) / SAMPLE_RATE)) for one in waveforms]
    more: dict[str, Any] = {"max_new_tokens": max(limits)}
    languages = getattr(generation, "lang_to_id", None) or {}
    tag = (language or "").replace("_", "-").split("-")[0].lower()
    if languages:
        more["task"] = "transcribe"
        if f"<|{tag}|>" in languages:
            more["language"] = tag
    with torch.inference_mode():
        output = network.generate(
            **inputs, do_sample=False, num_beams=1, return_dict_in_generate=True, output_scores=True, **more
        )
        scores = network.compute_transition_scores(
            output["sequences"], output["scores"], normalize_logits=True
        )
    ends = generation.eos_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}
    results = []
    rows = zip(output["sequences"].tolist(), scores.float().exp().tolist(), limits, strict=True)
    for row, logs, limit in rows:  # what a row may hold does not depend on the others
        tokens = row[len(row) - len(logs) :][:limit]
        size = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        results.append(TokenProbabilities(tokens[:size], logs[:size]))
    return results


# Commands ----------------------------------------------------------------------------------------------------------


LIST = "{list}"
"""In a command: the path of a file with the path of a WAV in each line."""
CALL = 16  # recordings in such a file, unless it is set


@dataclass(frozen=True)
class CommandRecogniser:
    """A program, called once for each recording or for several; a call that takes too long is ended, with all that it
    started.

    A call for several that fails is repeated with each half of them, so that a recording has the result that it has
    alone.
    """

    command: str
    timeout: float = 120.0  # seconds of a call
    batch: int = CALL  # recordings in a list, all of one language

    def __post_init__(self) -> None:
        try:
            program = shlex.split(self.command)[0]
        except (ValueError, IndexError) as error:
            raise ValueError(f"transcribe: need a command, got {self.command!r}") from error
        if shutil.which(program) is None:
            raise ValueError(f"transcribe: no program {program!r}, in the command {self.command!r}")

    @property
    def identity(self) -> str:
        """The command, and the size and content of the files that it names."""
        digest = hashlib.sha256(self.command.encode())
        for argument in shlex.split(self.command):
            path = Path(argument)
            if path.is_file():
                digest.update(path.read_bytes())
        return f"command-{digest.hexdigest()[:16]}"

    def transcribe(self, recordings: Sequence[Recording]) -> list[Transcript | Reject]:
        """One result for each recording, in order; one that the command cannot transcribe is a Reject."""
        results: dict[int, Transcript | Reject] = {}
        order = sorted(range(len(recordings)), key=lambda at: recordings[at].language or "")
        for _, group in itertools.groupby(order, key=lambda at: recordings[at].language):
            for places in batched(group, self.batch if LIST in self.command else 1):
                found = self._transcribe_list([recordings[at] for at in places])
                results.update(zip(places, found, strict=True))
        return [results[at] for at in range(len(recordings))]

    def _transcribe_list(self, recordings: Sequence[Recording]) -> list[Transcript | Reject]:
        """The results of one call; where it fails, of a call for each half."""
        found = self._call(recordings)
        if not isinstance(found, Reject):
            return found
        if len(recordings) == 1:
            return [found]
        middle = len(recordings) // 2
        return [*self._transcribe_list(recordings[:middle]), *self._transcribe_list(recordings[middle:])]

    def _call(self, recordings: Sequence[Recording]) -> list[Transcript | Reject] | Reject:
        """What one call gives, or why it gives nothing that can be used; the recordings have one language."""
        words, many = shlex.split(self.command), LIST in self.command
        with tempfile.TemporaryDirectory(prefix="wordweave-") as folder:
            names = [f"{number:05d}.wav" for number in range(len(recordings))] if many else ["recording.wav"]
            paths = [f"{folder}/{name}" for name in names]
            for path, recording in zip(paths, recordings, strict=True):
                write_wav(Path(path), recording.waveform)
            if many:
                listing = Path(folder) / "list.txt"
                listing.write_text("".join(f"{path}\n" for path in paths))
                words = [word.replace(LIST, str(listing)) for word in words]
            else:
                words += paths
            output = self._output(words, recordings[0].language, OUTPUT * len(recordings))
        if isinstance(output, Reject):  # the name of the folder is another one each time
            return Reject(output.reason, output.detail.replace(f"{folder}/", ""))
        return parse_answers(output, paths, self.command) if many else [parse_output(output, self.command)]

    def _output(self, words: Sequence[str], language: str | None, most: int) -> bytes | Reject:
        """What the program prints, at most `most` bytes, or why it is not used."""
        environment = {**os.environ, "WORDWEAVE_LANGUAGE": language or ""}
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                return Reject("transcribe.failed", f"{self.command}: {error.strerror}")
            output, reject = read_output(process, self.command, self.timeout, most)
            if reject is None and process.returncode:
                errors.seek(0)
                last = errors.read(OUTPUT).decode(errors="replace").strip().splitlines()[-1:] or [
                    "no message"
                ]
                reason = f"exit code {process.returncode} ({last[0][:200]})"
                reject = Reject("transcribe.failed", f"{self.command}: {reason}")
        return reject or output


def write_wav(path: Path, waveform: np.ndarray) -> None:
    """Write (T,) float32 at 16 kHz as 16 bits."""
    with wave_file.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes())


def read_output(
    process: subprocess.Popen, command: str, timeout: float, most: int = OUTPUT
) -> tuple[bytes, Reject | None]:
    """What a program prints before it ends; one that takes too long or prints too much is ended, and named."""
    import selectors
    import time

    assert process.stdout is not None
    output, deadline = b"", time.monotonic() + timeout
    reject = None
    with selectors.DefaultSelector() as selector, process.stdout as pipe:
        selector.register(pipe, selectors.EVENT_READ)
        while reject is None:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                reject = Reject("transcribe.timeout", f"{command}: took longer than {timeout:g} s")
                break
            piece = os.read(pipe.fileno(), OUTPUT)
            if not piece:
                break
            output += piece
            if len(output) > most:
                reject = Reject("transcribe.failed", f"{command}: printed more than {most} bytes")
        if reject is None:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                reject = Reject("transcribe.timeout", f"{command}: took longer than {timeout:g} s")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever it started, too
        process.wait()
    return output, reject


NEED = '{"text": "...", "words": [{"text": "...", "confidence": 0.9}]}'


def parse_output(output: bytes, command: str) -> Transcript | Reject:
    """A transcript from what a command prints, in UTF-8: text, or a JSON object.

    >>> parse_output(b'{"words": [{"text": "hi", "confidence": 0.5}, {"text": "you"}]}', "x").confidence
    0.5
    """
    try:
        text = output.decode()
    except UnicodeDecodeError as error:
        return Reject("transcribe.failed", f"{command}: need UTF-8: {error}")
    if text.lstrip().startswith("{"):
        return parse_object(text, command, f"text, or {NEED}")
    return Transcript(tuple(RecognisedWord(word, None) for word in text.split()))


def parse_object(text: str, command: str, need: str = NEED) -> Transcript | Reject:
    """A transcript from a JSON object; `need` is named where it is none."""
    try:
        record = json.loads(text)
        words = [{"text": record["text"]}] if record.get("words") is None else record["words"]
        return Transcript(tuple(word for one in words for word in recognised_words(**one)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"need {need}, got {text.strip()[:100]!r} ({files.one_line(error)})"
        return Reject("transcribe.failed", f"{command}: {reason}")


def recognised_words(text: str, confidence: float | None = None, **_: Any) -> Iterator[RecognisedWord]:
    """The words of a text, which have one confidence.

    Raises:
        ValueError: the text is none that UTF-8 can hold, or the confidence none.
    """
    if not isinstance(text, str):
        raise ValueError(f"text: need a string, got {text!r}")
    text.encode()
    if confidence is not None and not 0 <= float(confidence) <= 1:
        raise ValueError(f"confidence: need 0 to 1, got {confidence}")
    for word in text.split():
        yield RecognisedWord(word, None if confidence is None else float(confidence))


def parse_answers(output: bytes, paths: Sequence[str], command: str) -> list[Transcript | Reject] | Reject:
    """The transcripts of a list, from a JSON object in each line: in order, or each with the "id" of its recording.

    An id is the path as listed, or the name of the file without its ending.

    >>> answers = b'{"id": "1", "text": "you"}\\n{"id": "0", "text": "hi"}\\n'
    >>> [one.text for one in parse_answers(answers, ["/tmp/0.wav", "/tmp/1.wav"], "x")]
    ['hi', 'you']
    """
    try:
        lines = [line for line in output.decode().split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        return Reject("transcribe.failed", f"{command}: need UTF-8: {error}")
    places = {name: place for place, path in enumerate(paths) for name in (path, Path(path).stem)}
    named: dict[int, str] = {}
    for line in lines:
        try:
            id = json.loads(line).get("id")
            place = len(named) if id is None else places[id]
        except KeyError:
            return Reject("transcribe.failed", f"{command}: need an id of the list, got {id!r}"[:300])
        except (ValueError, TypeError, AttributeError, RecursionError):
            reason = f"need a JSON object like {NEED} in each line, got {line[:100]!r}"
            return Reject("transcribe.failed", f"{command}: {reason}")
        if place in named:
            return Reject(
                "transcribe.failed", f"{command}: need one line for each recording, got two for {id!r}"
            )
        named[place] = line
    if len(lines) != len(paths):
        need = f"need a line for each recording of the list, {len(paths)}, got {len(lines)}"
        return Reject("transcribe.failed", f"{command}: {need}")
    return [parse_object(named[place], command) for place in range(len(paths))]


def load_recogniser(
    model: str, command: str, *, device: str, dtype: str, batch: int | None, timeout: float
) -> Recogniser:
    """The recogniser of a model or of a command, of which one must be named.

    Raises:
        ValueError: both or none; it cannot be loaded.
    """
    if bool(model) == bool(command):
        raise ValueError(f"transcribe: need a model or a command, got {'both' if model else 'neither'}")
    if command:
        return CommandRecogniser(command, timeout, batch or CALL)
    return ModelRecogniser(model, device, dtype, batch)


def agreement(text: str, other: str) -> float:
    """1 - the word errors between two transcripts per word of the longer one, in [0, 1]; 1: the same words.

    >>> agreement("They went out.", "they went in"), agreement("", ""), agreement("a b", "")
    (0.6666666666666667, 1.0, 0.0)
    """
    first, second = tokens_of(text), tokens_of(other)
    if not first or not second:
        return float(first == second)
    import jiwer

    counts = jiwer.process_words(" ".join(first), " ".join(second))
    errors = counts.substitutions + counts.deletions + counts.insertions
    return 1 - errors / max(len(first), len(second))
