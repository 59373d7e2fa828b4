"""The ids a model sees: text first, then markers, units, pitch, style, task markers, padding."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from corpus import files
from shards.text import Tokenizer

KINDS = ("text", "marker", "unit", "pitch", "style", "task", "padding")
"""Kinds of ids, in the order of their ids. `Vocabulary.kind` gives indices into it."""

FILE = "vocabulary.json"
_FORMAT = "wordweave vocabulary"
_NAME = re.compile(r"\[(?:(Text|Speech|ASR|TTS)|(Hu|Pi|St)(0|[1-9][0-9]*))\]")
_BROKEN = re.compile(r"\[(?:Hu|Pi|St)[0-9]")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Which id is which token.

    ====================================  ==========================================
    ids                                   tokens
    ====================================  ==========================================
    0 .. text_size                        the tokenizer's own, its BOS and EOS among them
    text_marker, speech_marker            `[Text]`, `[Speech]`
    first_unit .. + units                 `[Hu0]`, `[Hu1]`, ...
    first_pitch .. + pitch                `[Pi0]`, ... (none where pitch is 0)
    first_style .. + style                `[St0]`, ... (none where style is 0)
    asr_marker, tts_marker                `[ASR]`, `[TTS]` (only with tasks=True)
    size .. padded_size                   padding, never written into a shard
    ====================================  ==========================================

    Ids depend on the tokenizer and these counts only.
    """

    tokenizer: Tokenizer
    units: int = 501
    pitch: int = 0
    style: int = 0
    tasks: bool = False
    multiple: int = 128

    def __post_init__(self) -> None:
        for name, minimum in (("units", 1), ("pitch", 0), ("style", 0), ("multiple", 1)):
            if getattr(self, name) < minimum:
                raise ValueError(f"vocabulary {name}: need at least {minimum}, got {getattr(self, name)}")
        if self.units > 32768:
            raise ValueError(
                f"vocabulary units: need at most 32768 (units are stored as int16), got {self.units}"
            )
        speech = [piece for piece in self.tokenizer.pieces if piece is not None and _NAME.fullmatch(piece)]
        if speech:
            raise ValueError(f"tokenizer: need one without speech tokens, this one has {speech[0]!r}")

    @property
    def text_size(self) -> int:
        """Number of text ids."""
        return self.tokenizer.size

    @property
    def text_marker(self) -> int:
        """Id of `[Text]`."""
        return self.text_size

    @property
    def speech_marker(self) -> int:
        """Id of `[Speech]`."""
        return self.text_size + 1

    @property
    def first_unit(self) -> int:
        """Id of `[Hu0]`."""
        return self.text_size + 2

    @property
    def first_pitch(self) -> int:
        """Id of `[Pi0]`, where there is pitch."""
        return self.first_unit + self.units

    @property
    def first_style(self) -> int:
        """Id of `[St0]`, where there is style."""
        return self.first_pitch + self.pitch

    @property
    def asr_marker(self) -> int:
        """Id of `[ASR]`, where there are tasks."""
        return self.first_style + self.style

    @property
    def tts_marker(self) -> int:
        """Id of `[TTS]`, where there are tasks."""
        return self.first_style + self.style + 1

    @property
    def size(self) -> int:
        """Number of ids that have a token."""
        return self.first_style + self.style + 2 * self.tasks

    @property
    def padded_size(self) -> int:
        """Number of rows an embedding needs: `size` rounded up to `multiple`."""
        return -(-self.size // self.multiple) * self.multiple

    @property
    def bos(self) -> int | None:
        """Id that begins a document, or None."""
        return self.tokenizer.bos

    @property
    def eos(self) -> int | None:
        """Id that ends a document, or None."""
        return self.tokenizer.eos

    @cached_property
    def _bounds(self) -> np.ndarray:
        """(6,) first id of each kind after text."""
        first_task = self.first_style + self.style
        return np.array(
            [self.text_marker, self.first_unit, self.first_pitch, self.first_style, first_task, self.size]
        )

    def kind(self, ids: np.ndarray | Sequence[int]) -> np.ndarray:
        """Kind of each id, as an index into KINDS: (N,) int -> (N,) int8."""
        ids = np.asarray(ids)
        if ids.size and not (ids.min() >= 0 and ids.max() < self.padded_size):
            raise ValueError(f"ids: need [0, {self.padded_size}), got [{ids.min()}, {ids.max()}]")
        return np.searchsorted(self._bounds, ids, side="right").astype(np.int8)

    @cached_property
    def marker_arrays(self) -> dict[tuple[bool, bool], np.ndarray]:
        """(speech, task) -> (1,) int32 marker of such a span: `[Text]`, `[Speech]`, and with task `[ASR]`,
        `[TTS]`."""
        ids = {(False, False): self.text_marker, (True, False): self.speech_marker}
        if self.tasks:
            ids |= {(False, True): self.asr_marker, (True, True): self.tts_marker}
        return {key: np.array([id], dtype=np.int32) for key, id in ids.items()}

    @cached_property
    def marker_ids(self) -> np.ndarray:
        """(4,) int32 markers by 2 * task + speech; the task markers are -1 where there are none."""
        tasks = (self.asr_marker, self.tts_marker) if self.tasks else (-1, -1)
        return np.array([self.text_marker, self.speech_marker, *tasks], dtype=np.int32)

    def counts(self, ids: np.ndarray) -> dict[str, int]:
        """Number of tokens per kind; kinds that do not occur are left out."""
        counts = np.bincount(self.kind(ids), minlength=len(KINDS))
        return {kind: int(count) for kind, count in zip(KINDS, counts, strict=True) if count}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of every id up to padded_size. An id without a token (gap, padding) is called `[Unused 32700]`."""
        markers = ["[Text]", "[Speech]"]
        units = [f"[Hu{i}]" for i in range(self.units)]
        pitch = [f"[Pi{i}]" for i in range(self.pitch)]
        style = [f"[St{i}]" for i in range(self.style)]
        tasks = ["[ASR]", "[TTS]"] * self.tasks
        names = [*self.tokenizer.pieces, *markers, *units, *pitch, *style, *tasks]
        names += [None] * (self.padded_size - self.size)
        return tuple(f"[Unused {i}]" if name is None else name for i, name in enumerate(names))

    @cached_property
    def _ids(self) -> dict[str, int]:
        gaps = {i for i, piece in enumerate(self.tokenizer.pieces) if piece is None}
        return {name: i for i, name in enumerate(self.names[: self.size]) if i not in gaps}

    def encode(self, tokens: Sequence[str] | str) -> list[int]:
        """Ids of names, or of one readable string.

        A sequence holds exact names: "[Hu12]", "[Text]", pieces of the tokenizer. A string is read as people write it:
        names in brackets, BOS and EOS by their pieces, and between them text, without one leading space, which is the
        tokenizer's own. A text that begins like a speech token and is none (`[Hu3x`, `[Pi07]`) is an error; so is a
        token that this vocabulary lacks. Other brackets (`[laughs]`) are text.

        Raises:
            ValueError: no such token.
        """
        if not isinstance(tokens, str):
            missing = next((token for token in tokens if token not in self._ids), None)
            if missing is not None:
                raise ValueError(f"token {missing!r}: not in this vocabulary ({self._describe()})")
            return [self._ids[token] for token in tokens]
        ids: list[int] = []
        position = 0
        for match in self._names_in_text.finditer(tokens):
            ids += self._encode_text(tokens[position : match.start()])
            ids += self.encode([match.group()])
            position = match.end()
        return ids + self._encode_text(tokens[position:])

    @cached_property
    def _names_in_text(self) -> re.Pattern:
        special = [self.names[id] for id in (self.bos, self.eos) if id is not None]
        return re.compile("|".join([_NAME.pattern, *map(re.escape, special)]))

    def _encode_text(self, text: str) -> list[int]:
        broken = _BROKEN.search(text)
        if broken:
            raise ValueError(
                f"{text[broken.start() : broken.start() + 12]!r}: need a whole token such as [Hu3]"
            )
        return self.tokenizer.encode(text.removeprefix(" "))

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Name of each id; the inverse of `encode`.

        Raises:
            ValueError: an id outside [0, padded_size).
        """
        numbers = [int(id) for id in ids]
        self.kind(numbers)
        return [self.names[id] for id in numbers]

    def render(self, ids: Iterable[int]) -> str:
        """Ids for people to read: "[Text] and they went[Speech][Hu3][Hu5]"."""
        numbers = [int(id) for id in ids]
        plain = self.kind(numbers) == 0
        parts: list[str] = []
        text: list[int] = []
        for id, is_text in zip([*numbers, -1], [*plain, False], strict=True):
            if is_text and id not in (self.bos, self.eos):
                text.append(id)
                continue
            if text:
                parts.append(f" {self.tokenizer.decode(text)}")
                text = []
            if id >= 0:
                parts.append(self.names[id])
        return "".join(parts)

    def _describe(self) -> str:
        tasks = ", [ASR] and [TTS]" if self.tasks else ""
        return f"{self.text_size} text ids, {self.units} units, {self.pitch} pitch, {self.style} style{tasks}"

    def _layout(self) -> dict[str, Any]:
        text = self.tokenizer
        return {
            "format": _FORMAT,
            "version": 1,
            "tokenizer": {"file": text.file, "sha256": text.sha256, "bos": self.bos, "eos": self.eos},
            "text": self.text_size,
            "units": self.units,
            "pitch": self.pitch,
            "style": self.style,
            "tasks": self.tasks,
            "multiple": self.multiple,
        }  # fmt: skip

    @cached_property
    def hash(self) -> str:
        """sha256 over the layout and the tokenizer's bytes. Two vocabularies with one hash give the same ids."""
        return hashlib.sha256(json.dumps(self._layout(), sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path | str) -> Path:
        """Write vocabulary.json into the folder, and the tokenizer file beside it; return the path of the first."""
        folder = files.to_path(folder)
        starts = {
            "[Text]": self.text_marker, "[Speech]": self.speech_marker, "[Hu0]": self.first_unit,
            "[Pi0]": self.first_pitch if self.pitch else None, "[St0]": self.first_style if self.style else None,
            "[ASR]": self.asr_marker if self.tasks else None, "[TTS]": self.tts_marker if self.tasks else None,
            "size": self.size, "padded_size": self.padded_size,
        }  # fmt: skip
        record = self._layout() | {
            "hash": self.hash,
            "ids": starts,
        }  # `ids` is for readers; loading computes them
        files.write(folder / self.tokenizer.file, self.tokenizer.content)
        files.write(folder / FILE, json.dumps(record, sort_keys=True, indent=1).encode() + b"\n")
        return folder / FILE

    @staticmethod
    def load(path: Path | str) -> "Vocabulary":
        """Read a vocabulary.json, or the folder (or URL) that holds it.

        Raises:
            ValueError: a file is missing, was changed after it was written, or is no vocabulary; the message names it.
        """
        before, _, last = str(path).rpartition("/")
        folder = (before or ".") if last == FILE else str(path)
        path = files.join_path(folder, FILE)
        record = files.read_record(path, format=_FORMAT, version=1)
        try:
            text = record["tokenizer"]
            if text["file"] not in ("tokenizer.json", "tokenizer.model"):
                raise ValueError(
                    f"tokenizer file: need tokenizer.json or tokenizer.model, got {text['file']!r}"
                )
            sha256 = text["sha256"]
            content = files.read(files.join_path(folder, text["file"]))
            tokenizer = Tokenizer(content, text["file"], text["bos"], text["eos"])
            counts = {name: record[name] for name in ("units", "pitch", "style", "tasks", "multiple")}
            vocabulary = Vocabulary(tokenizer, **counts)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a usable vocabulary: {error}") from error
        if tokenizer.sha256 != sha256:
            raise ValueError(
                f"{files.join_path(folder, text['file'])}: sha256 must be the one in {FILE}, the file was changed"
            )
        layout = vocabulary._layout() | {"hash": vocabulary.hash}
        changed = [name for name, value in layout.items() if record.get(name) != value]
        if changed:
            raise ValueError(f"{path}: its hash must cover its content, the file was changed ({changed[-1]})")
        return vocabulary
