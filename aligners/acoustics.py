"""Acoustic models of the backend `ctc`: a waveform -> log probabilities of tokens, and a word -> tokens.

Three kinds, by the name of the model: `compact`, bundled with wordweave (`aligners.compact`); one of torchaudio's
bundles (`MMS_FA`, `WAV2VEC2_ASR_BASE_960H` ...), whose weights torchaudio downloads; else a directory or hub name in
Hugging Face format (Wav2Vec2, HuBERT, WavLM ...ForCTC, letters as tokens).
"""

import functools
import hashlib
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from corpus.records import SAMPLE_RATE, Reject

if TYPE_CHECKING:
    import torch

COMPACT = "compact"
COMPACT_MINIMUM = 0.3
"""Of 249 right transcripts 99 % have a mean confidence of at least 0.44, and 60 of 60 at least 0.32 at 10 dB SNR; of
120 wrong ones 118 are rejected."""
TAIL = 0.1  # seconds: longest sound of a word after its last letter's peak
LANGUAGES = {
    "ar": "ara", "be": "bel", "bg": "bul", "de": "deu", "el": "ell", "en": "eng", "fa": "fas", "kk": "kaz", "ky": "kir",
    "lv": "lav", "lt": "lit", "mk": "mkd", "os": "oss", "ps": "pus", "ru": "rus", "sr": "srp", "tr": "tur", "ug": "uig",
    "uk": "ukr", "yi": "yid",
}  # fmt: skip
"""Language tag -> ISO 639-3, for the languages that uroman has special rules for."""


class WindowSettings(NamedTuple):
    """Length of a window and of its context on either side, in seconds; windows per forward pass."""

    window: float
    context: float
    batch: int


LogProbs = Callable[[Sequence[np.ndarray], WindowSettings], Iterator[np.ndarray]]


@dataclass(frozen=True)
class AcousticModel:
    """A loaded model.

    log_probs: waveforms (T,) -> for each, in order, (F, C) log probabilities of tokens, float32 or float16.
    spell: (word, language) -> its tokens; raises Reject.
    blank, delimiter: tokens of CTC's blank, and between words if the model has one.
    hop, receptive: samples from frame to frame, and that one frame sees.
    tail: seconds that a word may last after the last frame of its last token.
    weights: hash of the weights.
    english: whether the model supports English only.
    minimum: mean confidence below which an utterance has another transcript.
    edge: sample at which the first frame's share of the sound begins; None: a hop around the centre of what it sees.
    """

    log_probs: LogProbs
    spell: Callable[[str, str | None], Sequence[int]]
    blank: int
    delimiter: int | None
    hop: int
    receptive: int
    tail: float
    weights: str = ""
    english: bool = False
    minimum: float = 0.0
    edge: float | None = None

    @property
    def begin(self) -> float:
        """Sample at which the first frame's share of the sound begins."""
        return (self.receptive - self.hop) / 2 if self.edge is None else self.edge

    @property
    def rate(self) -> float:
        """Frames per second."""
        return SAMPLE_RATE / self.hop


@functools.lru_cache(maxsize=2)
def load(model: str, device: str, romanise: bool | None = None) -> AcousticModel:
    """A model by name, once per process; see the module.

    Raises:
        ValueError: it is no CTC model with a vocabulary of letters, or cannot be loaded.
    """
    if model == COMPACT:
        return load_compact(device)
    import torchaudio

    if not Path(model).exists() and hasattr(getattr(torchaudio.pipelines, model, None), "get_labels"):
        return load_bundle(model, device, romanise)
    return load_hugging_face(model, device, bool(romanise))


def load_compact(device: str) -> AcousticModel:
    """The bundled model; every frame has a label, so that a word ends with its last frame."""
    from aligners import compact

    if not compact.MODEL.is_file():
        raise ValueError(
            f"ctc.model {COMPACT}: no weights at {compact.MODEL}; `python -m aligners.compact` trains them"
        )
    encoder, _ = compact.bundled(device)
    windows = CompactNetwork(None, encoder.hop, encoder.minimum, None, True, device)  # type: ignore[arg-type]

    def log_probs(waveforms: Sequence[np.ndarray], window_settings: WindowSettings) -> Iterator[np.ndarray]:
        return (scores.reshape(-1, scores.shape[-1]) for scores in windows(waveforms, window_settings))

    spell = lambda word, language: compact.spell(word)  # noqa: E731
    return AcousticModel(
        log_probs, spell, 0, None, compact.HOP, encoder.minimum, 0.0, compact.identity(),
        english=True, minimum=COMPACT_MINIMUM, edge=encoder.centre - encoder.hop / 2,
    )  # fmt: skip


def load_bundle(name: str, device: str, romanise: bool | None) -> AcousticModel:
    """One of torchaudio's bundles with letters as tokens; those for forced alignment were trained on romanised text."""
    import torchaudio

    bundle = getattr(torchaudio.pipelines, name)
    for_alignment = hasattr(bundle, "get_dict")  # its model has one more token, which matches any sound
    more = {"with_star": False} if for_alignment else {}
    try:
        network = bundle.get_model(**more, dl_kwargs={"weights_only": True})
    except OSError as error:
        raise ValueError(f"ctc.model {name}: its weights cannot be downloaded ({error})") from error
    normalise = 1e-5 if getattr(network, "normalize_waveform", False) else None
    if normalise:
        network.normalize_waveform = False  # the mean must be over the recording, not over a batch
    network = network.eval().to(device)
    tokens = {label: index for index, label in enumerate(bundle.get_labels())}
    layers = bundle._params["extractor_conv_layer_config"]
    hop, receptive = strides([(kernel, stride) for _, kernel, stride in layers])
    padded = bundle._params["extractor_mode"] == "layer_norm"

    def forward(waves: "torch.Tensor", lengths: "torch.Tensor | None") -> "torch.Tensor":
        return network(waves, lengths)[0]

    log_probs = WindowedNetwork(forward, hop, receptive, normalise, padded, device)
    letters = Letters(letter_tokens(tokens), for_alignment if romanise is None else romanise)
    return AcousticModel(log_probs, letters, 0, tokens.get("|"), hop, receptive, TAIL, weights_hash(network))


def load_hugging_face(model: str, device: str, romanise: bool) -> AcousticModel:
    """A directory or hub name with config.json, vocab.json and weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCTC
    from transformers.utils import cached_file

    try:
        config = AutoConfig.from_pretrained(model)
        network = AutoModelForCTC.from_pretrained(model).eval().to(device)
    except OSError as error:
        raise ValueError(f"ctc.model {model!r}: cannot be loaded ({str(error).splitlines()[0]})") from error
    tokens = json.loads(Path(str(cached_file(model, "vocab.json"))).read_text(encoding="utf-8"))
    preprocessor = cached_file(model, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    preprocessing = json.loads(Path(preprocessor).read_text()) if preprocessor else {}
    normalise = 1e-7 if preprocessing.get("do_normalize", True) else None
    if not all(isinstance(number, int) for number in tokens.values()):
        raise ValueError(f"ctc.model {model}: vocab.json holds no flat vocabulary of letters")
    hop, receptive = strides(list(zip(config.conv_kernel, config.conv_stride, strict=True)))
    padded = getattr(config, "feat_extract_norm", "group") == "layer"

    def forward(waves: "torch.Tensor", lengths: "torch.Tensor | None") -> "torch.Tensor":
        if lengths is None:
            return network(waves).logits
        mask = torch.arange(waves.shape[1], device=waves.device)[None] < lengths[:, None]
        return network(waves, attention_mask=mask.long()).logits

    log_probs = WindowedNetwork(forward, hop, receptive, normalise, padded, device)
    letters, weights = Letters(letter_tokens(tokens), romanise), weights_hash(network)
    return AcousticModel(
        log_probs, letters, config.pad_token_id, tokens.get("|"), hop, receptive, TAIL, weights
    )


def weights_hash(network: "torch.nn.Module") -> str:
    """Hash of all weights and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def strides(layers: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """(hop, receptive field) in samples of convolutions (kernel, stride).

    >>> strides([(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)])
    (320, 400)
    """
    hop, receptive = 1, 1
    for kernel, stride in layers:
        receptive, hop = receptive + (kernel - 1) * hop, hop * stride
    return hop, receptive


def letter_tokens(tokens: dict[str, int]) -> dict[str, int]:
    """The tokens of a vocabulary that are letters: not its blank ("-", "<pad>"), delimiter ("|") and the like.

    >>> letter_tokens({"-": 0, "|": 1, "<unk>": 2, "A": 3, "'": 4})
    {'A': 3, "'": 4}
    """
    return {
        token: index
        for token, index in tokens.items()
        if len(token) == 1 and (token == "'" or unicodedata.category(token)[0] in "LMN")
    }


@dataclass(frozen=True)
class Letters:
    """Words as letters of a vocabulary, in the case that it uses."""

    tokens: dict[str, int]
    romanise: bool

    def __call__(self, word: str, language: str | None) -> list[int]:
        """
        >>> Letters({"I": 1, "T": 2, "S": 3}, romanise=False)("it's", None)
        [1, 2, 3]
        """
        # of romanised text the letters of the model are kept, marks that it lacks are dropped
        letters = romanise(word, language) if self.romanise and not self.known(word) else word
        spelled = [self.token(letter) for letter in letters]
        unknown = [letter for letter, token in zip(letters, spelled, strict=True) if token is None]
        missing = [letter for letter in unknown if letter.isalnum() or not (self.romanise or letter == "'")]
        if missing:
            raise Reject("align.out_of_vocabulary", f"{word[:50]!r}: the model has no {missing[0]!r}")
        tokens = [token for token in spelled if token is not None]
        if not tokens:
            raise Reject("align.out_of_vocabulary", f"{word[:50]!r} has no letters")
        return tokens

    def known(self, word: str) -> bool:
        return all(self.token(letter) is not None for letter in word)

    def token(self, letter: str) -> int | None:
        forms = (letter, letter.upper(), letter.lower())
        return next((self.tokens[form] for form in forms if form in self.tokens), None)


@functools.lru_cache(maxsize=100_000)
def romanise(word: str, language: str | None) -> str:
    """A word of any script in Latin letters, lower case, by uroman, as the text that MMS_FA was trained on."""
    tag = (language or "").replace("_", "-").split("-")[0].lower()
    return (
        load_uroman().romanize_string(word, lcode=LANGUAGES.get(tag, tag if len(tag) == 3 else None)).lower()
    )


@functools.cache
def load_uroman() -> Any:
    """uroman's tables, read once per process: it takes seconds."""
    import uroman

    return uroman.Uroman()


@dataclass(frozen=True)
class WindowedNetwork:
    """Runs a network window by window, so that memory does not grow with the recording.

    Windows begin at multiples of the hop, so that frame i always sees the same samples; it is computed in the
    window in which it has `context` seconds of sound on both sides.
    """

    forward: "Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]"  # (B, T), (B,) -> (B, F, C) scores
    hop: int
    receptive: int
    normalise: float | None  # added to the variance, for models that need recordings of mean 0 and variance 1
    padded: bool  # whether windows of unequal length may share a batch: padding does not change the result
    device: str

    def __call__(
        self, waveforms: Sequence[np.ndarray], window_settings: WindowSettings
    ) -> Iterator[np.ndarray]:
        window = max(1, round(window_settings.window * SAMPLE_RATE / self.hop))
        context = round(window_settings.context * SAMPLE_RATE / self.hop)
        windows = [
            cut for index, wave in enumerate(waveforms) for cut in self.cut(index, wave, window, context)
        ]
        levels = [
            (0.0, 1.0) if self.normalise is None else mean_and_deviation(wave, self.normalise)
            for wave in waveforms
        ]
        if window_settings.batch > 1:  # of similar length in a batch, so that little of it is padding
            windows.sort(key=lambda cut: cut.left - cut.right)
        results: dict[int, np.ndarray] = {}
        missing = Counter(cut.place for cut in windows)
        ready = 0
        for group in self.groups(windows, window_settings.batch):
            pieces = [self.samples(waveforms[cut.place], cut, levels[cut.place]) for cut in group]
            for cut, scores in zip(group, self.scores(pieces), strict=True):
                if (
                    cut.place not in results
                ):  # filled in place: pieces to be joined would need twice the memory
                    frames = self.frames(waveforms[cut.place])
                    results[cut.place] = np.empty((frames, *scores.shape[1:]), scores.dtype)
                results[cut.place][cut.first : cut.last] = scores[cut.first - cut.left : cut.last - cut.left]
                missing[cut.place] -= 1
            while ready < len(waveforms) and not missing[ready]:
                yield results.pop(ready)
                ready += 1

    def frames(self, waveform: np.ndarray) -> int:
        """How many frames a waveform gives."""
        return (len(waveform) - self.receptive) // self.hop + 1

    def cut(self, index: int, waveform: np.ndarray, window: int, context: int) -> Iterator["Window"]:
        frames = self.frames(waveform)
        for first in range(0, frames, window):
            last = min(first + window, frames)
            yield Window(index, first, last, max(0, first - context), min(frames, last + context))

    def groups(self, windows: Sequence["Window"], batch: int) -> Iterator[list["Window"]]:
        """Neighbouring windows of one batch: at most `batch`, of equal length where padding is not allowed."""
        group: list[Window] = []
        for cut in windows:
            fits = self.padded or not group or cut.right - cut.left == group[0].right - group[0].left
            if group and (len(group) == batch or not fits):
                yield group
                group = []
            group.append(cut)
        if group:
            yield group

    def samples(self, waveform: np.ndarray, cut: "Window", level: tuple[float, float]) -> np.ndarray:
        piece = waveform[cut.left * self.hop : (cut.right - 1) * self.hop + self.receptive]
        return ((piece - level[0]) / level[1]).astype(np.float32)

    def scores(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        import torch

        lengths = torch.tensor([len(piece) for piece in pieces])
        waves = torch.zeros(len(pieces), int(lengths.max()))
        for row, piece in zip(waves, pieces, strict=True):
            row[: len(piece)] = torch.from_numpy(piece)
        equal = bool((lengths == lengths[0]).all())
        with torch.inference_mode():
            logits = self.forward(waves.to(self.device), None if equal else lengths.to(self.device))
            return list(torch.log_softmax(logits.float(), -1).cpu().numpy())


class CompactNetwork(WindowedNetwork):
    """Windows of `compact`: (F, quarters, C) log probabilities."""

    def scores(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        from aligners import compact

        scores = compact.log_probs(pieces, self.device)
        return [one.reshape(-1, compact.QUARTERS, one.shape[1]) for one in scores]


class Window(NamedTuple):
    """Frames [first, last) of a waveform, computed from those of [left, right)."""

    place: int
    first: int
    last: int
    left: int
    right: int


def mean_and_deviation(waveform: np.ndarray, least: float) -> tuple[float, float]:
    """Mean and standard deviation of a recording, without a copy of it; `least` is added to the variance."""
    mean = float(waveform.mean(dtype=np.float64))
    blocks = np.split(waveform, range(1 << 20, len(waveform), 1 << 20))
    squares = sum(float(np.sum(np.square(block - mean), dtype=np.float64)) for block in blocks)
    return mean, math.sqrt(squares / len(waveform) + least)
