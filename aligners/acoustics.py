"""What the backend `ctc` listens with: a wave -> log probabilities of tokens, and a word -> tokens.

Three kinds, by the name of the model: `compact`, which comes with wordweave (`aligners.compact`); one of torchaudio's
bundles (`MMS_FA`, `WAV2VEC2_ASR_BASE_960H` ...), whose weights torchaudio downloads; else a directory or hub name in
Hugging Face format (Wav2Vec2, HuBERT, WavLM ...ForCTC, letters as tokens).
"""

import functools
import hashlib
import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from corpus.records import SAMPLE_RATE, Reject

if TYPE_CHECKING:
    import torch

COMPACT = "compact"
TAIL = 0.1  # seconds: longest sound of a word after its last letter's peak
LANGUAGES = {
    "ar": "ara", "be": "bel", "bg": "bul", "de": "deu", "el": "ell", "en": "eng", "fa": "fas", "kk": "kaz", "ky": "kir",
    "lv": "lav", "lt": "lit", "mk": "mkd", "os": "oss", "ps": "pus", "ru": "rus", "sr": "srp", "tr": "tur", "ug": "uig",
    "uk": "ukr", "yi": "yid",
}  # fmt: skip
"""Language tag -> ISO 639-3, for the languages that uroman has rules of their own for."""


class Hearing(NamedTuple):
    """How a model listens: in windows of so many seconds, with so much more on either side, so many at once."""

    window: float
    context: float
    batch: int


Listen = Callable[[Sequence[np.ndarray], Hearing], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Acoustics:
    """A loaded model.

    listen: waveforms (T,) -> for each, in order, (F, C) log probabilities of tokens, float32 or float16.
    spell: (word, language) -> its tokens; raises Reject.
    blank, delimiter: tokens of CTC's blank, and between words if the model has one.
    hop, receptive: samples from frame to frame, and that one frame sees.
    tail: seconds that a word may sound on after its last token's last frame.
    weights: hash of the weights.
    english: whether it knows English alone.
    edge: sample at which the first frame's share of the sound begins; None: a hop around the centre of what it sees.
    """

    listen: Listen
    spell: Callable[[str, str | None], Sequence[int]]
    blank: int
    delimiter: int | None
    hop: int
    receptive: int
    tail: float
    weights: str = ""
    english: bool = False
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
def load(model: str, device: str, romanise: bool | None = None) -> Acoustics:
    """A model by name, once per process; see the module.

    Raises:
        ValueError: it is no CTC model with a vocabulary of letters, or cannot be had.
    """
    if model == COMPACT:
        return load_compact()
    import torchaudio

    if not Path(model).exists() and hasattr(getattr(torchaudio.pipelines, model, None), "get_labels"):
        return load_bundle(model, device, romanise)
    return load_hugging_face(model, device, bool(romanise))


def load_compact() -> Acoustics:
    """The model that comes with wordweave; its frames are labelled, so that nothing sounds on after a word."""
    from aligners import compact

    if not compact.MODEL.is_file():
        raise ValueError(
            f"ctc.model {COMPACT}: no weights at {compact.MODEL}; `python -m aligners.compact` learns them"
        )
    encoder, _, _ = compact.bundled()
    windows = Quarters(None, encoder.hop, encoder.minimum, None, False, "cpu")  # type: ignore[arg-type]

    def listen(waveforms: Sequence[np.ndarray], hearing: Hearing) -> Iterator[np.ndarray]:
        return (heard.reshape(-1, heard.shape[-1]) for heard in windows(waveforms, hearing))

    spell = lambda word, language: compact.spell(word)  # noqa: E731
    return Acoustics(
        listen, spell, 0, None, compact.HOP, encoder.minimum, 0.0, compact.identity(),
        english=True, edge=encoder.centre - encoder.hop / 2,
    )  # fmt: skip


def load_bundle(name: str, device: str, romanise: bool | None) -> Acoustics:
    """One of torchaudio's bundles that know letters; those for forced alignment were taught romanised text."""
    import torchaudio

    bundle = getattr(torchaudio.pipelines, name)
    for_alignment = hasattr(bundle, "get_dict")  # its model has a token more, which stands for anything
    more = {"with_star": False} if for_alignment else {}
    try:
        network = bundle.get_model(**more, dl_kwargs={"weights_only": True})
    except OSError as error:
        raise ValueError(f"ctc.model {name}: its weights cannot be downloaded ({error})") from error
    normalise = 1e-5 if getattr(network, "normalize_waveform", False) else None
    if normalise:
        network.normalize_waveform = False  # it would take the mean over a batch; ours is over the recording
    network = network.eval().to(device)
    tokens = {label: place for place, label in enumerate(bundle.get_labels())}
    layers = bundle._params["extractor_conv_layer_config"]
    hop, receptive = strides([(kernel, stride) for _, kernel, stride in layers])
    padded = bundle._params["extractor_mode"] == "layer_norm"

    def forward(waves: "torch.Tensor", lengths: "torch.Tensor | None") -> "torch.Tensor":
        return network(waves, lengths)[0]

    listen = Windows(forward, hop, receptive, normalise, padded, device)
    letters = Letters(letters_of(tokens), for_alignment if romanise is None else romanise)
    return Acoustics(listen, letters, 0, tokens.get("|"), hop, receptive, TAIL, weights_hash(network))


def load_hugging_face(model: str, device: str, romanise: bool) -> Acoustics:
    """A directory or hub name with config.json, vocab.json and weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCTC
    from transformers.utils import cached_file

    try:
        config = AutoConfig.from_pretrained(model)
        network = AutoModelForCTC.from_pretrained(model).eval().to(device)
    except OSError as error:
        raise ValueError(f"ctc.model {model!r}: cannot be had ({str(error).splitlines()[0]})") from error
    tokens = json.loads(Path(str(cached_file(model, "vocab.json"))).read_text(encoding="utf-8"))
    preprocessor = cached_file(model, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    said = json.loads(Path(preprocessor).read_text()) if preprocessor else {}
    normalise = 1e-7 if said.get("do_normalize", True) else None
    if not all(isinstance(number, int) for number in tokens.values()):
        raise ValueError(f"ctc.model {model}: vocab.json holds no flat vocabulary of letters")
    hop, receptive = strides(list(zip(config.conv_kernel, config.conv_stride, strict=True)))
    padded = getattr(config, "feat_extract_norm", "group") == "layer"

    def forward(waves: "torch.Tensor", lengths: "torch.Tensor | None") -> "torch.Tensor":
        if lengths is None:
            return network(waves).logits
        mask = torch.arange(waves.shape[1], device=waves.device)[None] < lengths[:, None]
        return network(waves, attention_mask=mask.long()).logits

    listen = Windows(forward, hop, receptive, normalise, padded, device)
    letters, weights = Letters(letters_of(tokens), romanise), weights_hash(network)
    return Acoustics(listen, letters, config.pad_token_id, tokens.get("|"), hop, receptive, TAIL, weights)


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


def letters_of(tokens: dict[str, int]) -> dict[str, int]:
    """What words are written with, of a vocabulary: not its blank ("-", "<pad>"), delimiter ("|") and the like.

    >>> letters_of({"-": 0, "|": 1, "<unk>": 2, "A": 3, "'": 4})
    {'A': 3, "'": 4}
    """
    return {
        token: place
        for token, place in tokens.items()
        if len(token) == 1 and (token == "'" or unicodedata.category(token)[0] in "LMN")
    }


@dataclass(frozen=True)
class Letters:
    """Words as letters of a vocabulary, in whatever case it has."""

    tokens: dict[str, int]
    romanise: bool

    def __call__(self, word: str, language: str | None) -> list[int]:
        """
        >>> Letters({"I": 1, "T": 2, "S": 3}, romanise=False)("it's", None)
        [1, 2, 3]
        """
        # romanised text keeps the letters the model knows and drops the marks it does not
        letters = roman(word, language) if self.romanise and not self.known(word) else word
        spelled = [self.token(letter) for letter in letters]
        unknown = [letter for letter, token in zip(letters, spelled, strict=True) if token is None]
        missing = [letter for letter in unknown if letter.isalnum() or not (self.romanise or letter == "'")]
        if missing:
            raise Reject("align.out_of_vocabulary", f"{word[:50]!r}: the model has no {missing[0]!r}")
        found = [token for token in spelled if token is not None]
        if not found:
            raise Reject("align.out_of_vocabulary", f"{word[:50]!r} has no letters")
        return found

    def known(self, word: str) -> bool:
        return all(self.token(letter) is not None for letter in word)

    def token(self, letter: str) -> int | None:
        forms = (letter, letter.upper(), letter.lower())
        return next((self.tokens[form] for form in forms if form in self.tokens), None)


@functools.lru_cache(maxsize=100_000)
def roman(word: str, language: str | None) -> str:
    """A word of any script in Latin letters, lower case, by uroman, as the text was on which MMS_FA was taught."""
    tag = (language or "").replace("_", "-").split("-")[0].lower()
    return romaniser().romanize_string(word, lcode=LANGUAGES.get(tag, tag if len(tag) == 3 else None)).lower()


@functools.cache
def romaniser() -> Any:
    """uroman's tables, read once per process: it takes seconds."""
    import uroman

    return uroman.Uroman()


@dataclass(frozen=True)
class Windows:
    """Listens window by window, so that memory does not grow with the recording.

    Windows begin at multiples of the hop, so that frame i always sees the same samples; it is taken from the window in
    which it has `context` seconds of sound on both sides.
    """

    forward: "Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]"  # (B, T), (B,) -> (B, F, C) scores
    hop: int
    receptive: int
    normalise: (
        float | None
    )  # added to the variance of recordings that the model wants at mean 0 and variance 1
    padded: bool  # whether windows of unequal length may be heard at once: nothing of the padding is in the result
    device: str

    def __call__(self, waveforms: Sequence[np.ndarray], hearing: Hearing) -> Iterator[np.ndarray]:
        window = max(1, round(hearing.window * SAMPLE_RATE / self.hop))
        context = round(hearing.context * SAMPLE_RATE / self.hop)
        windows = [
            cut for place, wave in enumerate(waveforms) for cut in self.cut(place, wave, window, context)
        ]
        levels = [(0.0, 1.0) if self.normalise is None else level(wave, self.normalise) for wave in waveforms]
        made: dict[int, np.ndarray] = {}
        ready = 0
        for group in self.groups(windows, hearing.batch):
            pieces = [self.samples(waveforms[cut.place], cut, levels[cut.place]) for cut in group]
            for cut, scores in zip(group, self.scores(pieces), strict=True):
                if cut.place not in made:  # filled in place: pieces to be joined would need twice the memory
                    frames = self.frames(waveforms[cut.place])
                    made[cut.place] = np.empty((frames, *scores.shape[1:]), scores.dtype)
                made[cut.place][cut.first : cut.last] = scores[cut.first - cut.left : cut.last - cut.left]
            while ready < group[-1].place:
                yield made.pop(ready)
                ready += 1
        for place in range(ready, len(waveforms)):
            yield made.pop(place)

    def frames(self, waveform: np.ndarray) -> int:
        """How many frames a waveform gives."""
        return (len(waveform) - self.receptive) // self.hop + 1

    def cut(self, place: int, waveform: np.ndarray, window: int, context: int) -> Iterator["Cut"]:
        frames = self.frames(waveform)
        for first in range(0, frames, window):
            last = min(first + window, frames)
            yield Cut(place, first, last, max(0, first - context), min(frames, last + context))

    def groups(self, windows: Sequence["Cut"], batch: int) -> Iterator[list["Cut"]]:
        """Neighbouring windows to be heard at once: at most `batch`, of one length where padding is not allowed."""
        group: list[Cut] = []
        for cut in windows:
            fits = self.padded or not group or cut.right - cut.left == group[0].right - group[0].left
            if group and (len(group) == batch or not fits):
                yield group
                group = []
            group.append(cut)
        if group:
            yield group

    def samples(self, waveform: np.ndarray, cut: "Cut", level: tuple[float, float]) -> np.ndarray:
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
            heard = self.forward(waves.to(self.device), None if equal else lengths.to(self.device))
            return list(torch.log_softmax(heard.float(), -1).cpu().numpy())


class Quarters(Windows):
    """Windows of `compact`: (F, quarters, C) log probabilities."""

    def scores(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        from aligners import compact

        heard = [compact.listen(piece) for piece in pieces]
        return [one.reshape(-1, compact.QUARTERS, one.shape[1]) for one in heard]


class Cut(NamedTuple):
    """Frames [first, last) of a waveform, heard with those of [left, right)."""

    place: int
    first: int
    last: int
    left: int
    right: int


def level(waveform: np.ndarray, least: float) -> tuple[float, float]:
    """Mean and standard deviation of a recording, without a copy of it; `least` is added to the variance."""
    mean = float(waveform.mean(dtype=np.float64))
    blocks = np.split(waveform, range(1 << 20, len(waveform), 1 << 20))
    squares = sum(float(np.sum(np.square(block - mean), dtype=np.float64)) for block in blocks)
    return mean, math.sqrt(squares / len(waveform) + least)
