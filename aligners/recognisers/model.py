"""Speech to text by a model that transformers loads: a directory or hub name in Hugging Face format.

It has a CTC head (Wav2Vec2, HuBERT, Parakeet-CTC ...) or a decoder (Whisper, Moonshine ...). On a CPU recordings are
computed one by one, so that a result does not depend on the others; on a GPU in batches, which may change the last
bits of a confidence and, rarely, a word.
"""

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from aligners.acoustics import weights_hash
from aligners.recognisers.transcript import RecognisedWord, Recording, Transcript, batched
from corpus.records import SAMPLE_RATE, Reject

WINDOW = 30.0  # seconds that a model is given at most
SEARCH = 6.0  # seconds before the end of a window in which it is cut at the quietest place
TOKENS = 15.0  # per second of speech, and a few more: a decoder that repeats itself ends there
FEWEST_TOKENS = 16


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
