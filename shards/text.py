"""Written text <-> ids: one interface for Hugging Face `tokenizers` and SentencePiece models, and training of a BPE."""

import hashlib
import itertools
import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corpus import files

BOS, EOS = "<s>", "</s>"
"""The two special tokens of a BPE trained here."""

MOST_KNOWN = 1 << 18
"""Words whose ids are kept, about 100 MB."""

_ID_BYTES = array("i").itemsize
_PROBES = ("they went out together", "word by word, and so on.")


class Tokenizer:
    """Text <-> ids of one tokenizer file.

    Every encoding here starts like a word in the middle of a sentence: with the leading space (byte-level BPE) or the
    dummy prefix (SentencePiece) of that tokenizer. So any span of words is a slice of `encode_words`. No special token
    is read from running text: a transcript with "</s>" does not end a document.

    Attributes:
        content: the bytes of the file; `sha256` is their hash.
        file: "tokenizer.json" or "tokenizer.model", the name of the file in a shard folder.
        bos, eos: ids that begin and end a document, or None.
        pieces: one piece per id; None for an id without a token.
        size: number of ids, len(pieces).
    """

    def __init__(self, content: bytes, file: str, bos: int | None = None, eos: int | None = None):
        self.content = content
        self.file = file
        self._model = _HuggingFace(content) if file == "tokenizer.json" else _SentencePiece(content)
        self.pieces: tuple[str | None, ...] = self._model.pieces
        self.size = len(self.pieces)
        self.bos, self.eos = bos, eos
        self.sha256 = hashlib.sha256(content).hexdigest()
        for name, value in (("bos", bos), ("eos", eos)):
            if value is not None and not 0 <= value < self.size:
                raise ValueError(f"tokenizer {name}: need an id in [0, {self.size}), got {value}")
        self._prefix = self._find_prefix()
        self._known = _KnownWords(lambda word: self._model.encode([self._prefix + word])[0])

    def __reduce__(self) -> tuple:
        return Tokenizer, (self.content, self.file, self.bos, self.eos)

    def _find_prefix(self) -> str:
        """The prefix with which a word is tokenised as in running text: a space, or nothing (the model adds it)."""
        for prefix in ("", " "):
            for probe in _PROBES:
                first, *rest = probe.split(" ")
                sentence = self._model.encode([probe])[0]
                words = self._model.encode([first, *(prefix + word for word in rest)])
                if sentence != [id for ids in words for id in ids]:
                    break
            else:
                return prefix
        raise ValueError(
            f"{self.file}: need a tokenizer that splits a sentence into the tokens of its words; this one does not"
        )

    def encode(self, text: str) -> list[int]:
        """Ids of running text, as inside a sentence; no BOS, no EOS."""
        return self._model.encode([self._prefix + text])[0] if text else []

    def encode_words(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of words, each tokenised alone, so that words [a, b) are ids[ends[a-1]:ends[b-1]].

        Returns:
            ids: (M,) int32.
            ends: (W,) int32, number of ids up to and including each word.
        """
        encoded = list(map(self._known.__getitem__, words))
        lengths = np.fromiter(map(len, encoded), dtype=np.int32, count=len(encoded)) // _ID_BYTES
        return _joined(encoded), np.cumsum(lengths, dtype=np.int32)

    def encode_text(self, words: Sequence[str]) -> np.ndarray:
        """The ids that `encode_words` gives, (M,) int32, alone: quicker."""
        return _joined(map(self._known.__getitem__, words))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without the space that `encode` puts before it; special tokens are written out."""
        return self._model.decode([int(id) for id in ids]).removeprefix(self._prefix)


class _KnownWords(dict[str, bytes]):
    """Word -> its ids, as the bytes of int32, of words that were met."""

    def __init__(self, encode: Callable[[str], list[int]]):
        self._encode = encode

    def __missing__(self, word: str) -> bytes:
        if len(self) > MOST_KNOWN:
            self.clear()
        ids = self[word] = array("i", self._encode(word)).tobytes()
        return ids


def _joined(encoded: Iterable[bytes]) -> np.ndarray:
    """(M,) int32 of their bytes."""
    return np.frombuffer(bytearray().join(encoded), dtype=np.int32)


class _HuggingFace:
    def __init__(self, content: bytes):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
        from tokenizers import Tokenizer as Backend

        try:
            self._backend: Any = Backend.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"tokenizer.json: not a tokenizers file: {error}") from error
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        known = self._backend.get_vocab(with_added_tokens=True)
        pieces: list[str | None] = [None] * (1 + max(known.values(), default=-1))
        for piece, id in known.items():
            pieces[id] = piece
        self.pieces = tuple(pieces)

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=False)


class _SentencePiece:
    def __init__(self, content: bytes):
        from sentencepiece import SentencePieceProcessor

        try:
            self._backend: Any = SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise ValueError(f"tokenizer.model: not a SentencePiece model: {error}") from error
        size = self._backend.get_piece_size()
        self.pieces: tuple[str | None, ...] = tuple(self._backend.id_to_piece(list(range(size))))

    def encode(self, texts: list[str]) -> list[list[int]]:
        return self._backend.encode(texts)

    def decode(self, ids: list[int]) -> str:
        return self._backend.decode(ids)


def train_bpe(texts: Iterable[str], path: Path | str, *, size: int) -> Tokenizer:
    """Train a byte-level BPE on texts and write it to `path` as a tokenizer.json.

    Ids 0 and 1 are `<s>` and `</s>`, 2 to 257 the bytes. The same texts give the same bytes. `texts` is read once; only
    the count of each distinct word is in memory.

    Args:
        size: number of ids wanted, at least 258; a small corpus may give fewer.
    """
    return train_bpe_on_counts(count_words(texts), path, size=size)


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each piece occurs that a byte-level BPE never merges across: a word with the space before it, a sign.

    >>> sorted(count_words(["ab ab, c"]).items())
    [(' ab', 2), (' c', 1), (',', 1)]
    """
    from tokenizers import pre_tokenizers

    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    counts: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for text in texts:
        several = text.split()
        if " ".join(several) == text:  # no piece reaches over a single space: each word is split once
            words.update(several)
            continue
        spaced = f" {text}"
        counts.update(spaced[first:last] for _, (first, last) in split(spaced))
    counts.update(count_pieces(words))
    return counts


def count_pieces(words: Mapping[str, int]) -> Counter[str]:
    """As `count_words`, from how often each word occurs in the texts, each after one space.

    >>> sorted(count_pieces({"ab": 2, "5 km,": 1}).items())
    [(' 5', 1), (' ab', 2), (' km', 1), (',', 1)]
    """
    from tokenizers import pre_tokenizers

    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    counts: Counter[str] = Counter()
    for word, times in words.items():
        spaced = f" {word}"
        for _, (first, last) in split(spaced):
            counts[spaced[first:last]] += times
    return counts


def train_bpe_on_counts(counts: Mapping[str, int], path: Path | str, *, size: int) -> Tokenizer:
    """As `train_bpe`, from what `count_words` gives for the texts, in any order."""
    if size < 258:
        raise ValueError(f"bpe size: need at least 258 (256 bytes, {BOS} and {EOS}), got {size}")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend: Any = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(repeat_words(counts), trainer)
    files.write(Path(path), backend.to_str(pretty=False).encode())
    return load_tokenizer(path)


def repeat_words(counts: Mapping[str, int], most: int = 1000) -> Iterator[str]:
    """Texts in which each word occurs as often as counted; words that begin with a space share a text.

    >>> list(repeat_words({" a": 5, ",": 2}, most=2))
    [' a a', ' a a', ' a', ',', ',']
    """
    for word, count in counts.items():
        copies = most if word[0] == " " and not word.isspace() else 1
        yield from itertools.repeat(word * copies, count // copies)
        if count % copies:
            yield word * (count % copies)


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Load a `tokenizer.json`, a SentencePiece `.model`, or a Hugging Face tokenizer directory that holds one of
    them.

    BOS and EOS come from tokenizer_config.json, else special_tokens_map.json beside the file, else from the
    SentencePiece model, else they are `<s>` and `</s>` where the file has such pieces. Nothing is downloaded.

    Raises:
        ValueError: there is no tokenizer at `path`, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        known = [path / name for name in ("tokenizer.json", "tokenizer.model") if (path / name).is_file()]
        if not known:
            raise ValueError(
                f"{path}: need a tokenizer.json or a tokenizer.model in this folder, got neither"
            )
        path = known[0]
    if not path.is_file():
        raise ValueError(f"{path}: no such tokenizer file")
    try:
        if path.suffix == ".model":
            tokenizer = Tokenizer(path.read_bytes(), "tokenizer.model")
            bos, eos = tokenizer._model._backend.bos_id(), tokenizer._model._backend.eos_id()
            ids = {"bos": None if bos < 0 else bos, "eos": None if eos < 0 else eos}
        else:
            tokenizer = Tokenizer(path.read_bytes(), "tokenizer.json")
            ids = _special_ids(path.parent, tokenizer.pieces)
        return Tokenizer(tokenizer.content, tokenizer.file, **ids)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _special_ids(folder: Path, pieces: tuple[str | None, ...]) -> dict[str, int | None]:
    """Ids of BOS and EOS from the files beside a tokenizer.json."""
    named: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the later one has priority
        if (folder / name).is_file():
            named |= json.loads((folder / name).read_text(encoding="utf-8"))
    ids: dict[str, int | None] = {}
    for key, default in (("bos", BOS), ("eos", EOS)):
        piece = named.get(f"{key}_token", default)
        piece = piece.get("content") if isinstance(piece, dict) else piece
        if piece is not None and piece not in pieces and f"{key}_token" in named:
            raise ValueError(f"{key}_token: need one of the tokenizer's pieces, got {piece!r}")
        ids[key] = pieces.index(piece) if piece in pieces else None
    return ids
