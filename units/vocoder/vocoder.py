"""A vocoder as it is used: tokens and a voice to a waveform, in one piece or as it is made.

A directory of `config.json` (sizes, voices, and which encoder, codebook, pitch and style its tokens come from) and
`model.safetensors`. Synthesis goes in chunks of fixed length, each with as much context as its frames depend on; the
phase of the pulses is carried over. So the waveform has no seams, its bytes do not depend on how it is asked for, and
memory does not grow with its length.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corpus import files
from corpus.records import SAMPLE_RATE
from corpus.toml import fill
from units.deduplicate import deduplicate
from units.prosody.f0 import extract
from units.tensor_files import hash_tensors, read_safetensors, write_safetensors
from units.threads import one_thread
from units.vocoder.data import (
    BASE_HERTZ,
    EDGE,
    at_level,
    cut_padded,
    is_voice,
    mean_spectrum,
    pitch_contour,
    place_in_run,
    style_frames,
)
from units.vocoder.network import RUN, VOICE_BANDS, DurationNetwork, NetworkSettings, Tokens, VocoderNetwork
from units.vocoder.signal import FFT, HOP, NOISE_BLOCK, advance, noise, per_sample, pulses, render
from units.waveform import check_waveform

FORMAT = "wordweave vocoder 1"
BUNDLED = Path(__file__).parents[1] / "data" / "vocoder"
CHUNK = 400  # units synthesised at a time
LOWEST, HIGHEST = 40.0, 1_000.0  # Hz


@dataclass(frozen=True, eq=False)
class Voice:
    """(10,) float32 components of a voice's mean spectrum, and its mean F0 in Hz."""

    bands: np.ndarray
    hertz: float

    def vector(self) -> np.ndarray:
        """(11,) float32, as the network reads it."""
        return np.append(self.bands, np.log2(self.hertz / BASE_HERTZ)).astype(np.float32)


class Vocoder:
    """Tokens to waveforms. Load one with `load`.

    Attributes:
        voices: by name; the first is the default.
        identity: `encoder`, `codebook`, `pitch` and `style`: hashes of what its tokens come from.
        hop: samples of a unit.
    """

    def __init__(
        self, network: VocoderNetwork, durations: DurationNetwork, voice_mean: np.ndarray, components: np.ndarray,
        voices: dict[str, Voice], identity: dict[str, Any], *, pitch: Any = None, style: np.ndarray | None = None,
    ):  # fmt: skip
        self.network, self.durations = network.eval(), durations.eval()
        self.settings = network.settings
        self.voice_mean, self.components = voice_mean, components
        self.voices, self.identity, self.pitch, self.style = voices, identity, pitch, style
        self.hop = self.settings.upsampling * HOP

    @property
    def default_voice(self) -> str:
        """The name of the first voice."""
        return next(iter(self.voices))

    @property
    def hash(self) -> str:
        """SHA-256 of the weights."""
        return hash_tensors(dict(self.network.state_dict()) | dict(self.durations.state_dict()))

    def check(self, **identity: str | None) -> None:
        """Refuse tokens of another encoder, codebook, pitch or style than it was made for.

        Raises:
            ValueError: names the first that differs.
        """
        for name, given in identity.items():
            own = self.identity.get(name)
            if given is not None and own is not None and given != own:
                raise ValueError(
                    f"vocoder: was made for {name} {own[:12]}, the tokens are of {name} {given[:12]}; "
                    "train one for it with `wordweave fit vocoder`, or name one with --vocoder"
                )

    def voice(self, name: str | None = None) -> Voice:
        """A voice by name.

        Raises:
            ValueError: there is none of that name.
        """
        name = name or self.default_voice
        if name not in self.voices:
            raise ValueError(f"voice {name!r}: need one of {', '.join(self.voices)}, or a recording")
        return self.voices[name]

    def voice_of(self, waveform: np.ndarray, name: str = "a recording") -> Voice:
        """The voice of a recording, (T,) float32 at 16 kHz.

        Raises:
            ValueError: there is no voiced speech in it.
        """
        waveform = check_waveform(waveform)
        if not is_voice(waveform):
            raise ValueError(f"voice of {name}: need speech, got silence")
        waveform = at_level(waveform)
        mean = extract(waveform).mean
        if mean is None:
            raise ValueError(
                f"voice of {name}: need voiced speech, got none in {len(waveform) / SAMPLE_RATE:.1f} s"
            )
        bands = (mean_spectrum(waveform) - self.voice_mean) @ self.components
        return Voice(np.clip(bands, -3, 3).astype(np.float32), mean)

    def lengths(self, units: np.ndarray) -> np.ndarray:
        """Predicted length of each de-duplicated unit, in frames: (R,) -> (R,) int64, 1 to 16."""
        self._check_units(units)
        reach = self.settings.duration_blocks * 3
        pieces = [np.zeros(0, np.int64)]
        with torch.inference_mode(), one_thread():
            for start in range(0, len(units), 10 * CHUNK):
                count = min(10 * CHUNK, len(units) - start)
                padded = cut_padded(np.asarray(units, np.int64), start - reach, count + 2 * reach, -1)
                scores = self.durations(torch.from_numpy(padded)[None])[0, reach : reach + count]
                expected = scores.softmax(dim=1) @ torch.arange(1.0, RUN + 1)
                pieces.append(expected.round().clamp(min=1).long().numpy())
        return np.concatenate(pieces)

    def speak(
        self, units: np.ndarray, pitch: np.ndarray | None = None, style: np.ndarray | None = None,
        voice: Voice | None = None, lengths: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        """A stream of tokens in one piece: (T,) float32 at 16 kHz. See `stream`."""
        return np.concatenate(list(self.stream(units, pitch, style, voice, lengths)))

    def stream(
        self, units: np.ndarray, pitch: np.ndarray | None = None, style: np.ndarray | None = None,
        voice: Voice | None = None, lengths: np.ndarray | None = None,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """The pieces of a waveform, as they are made.

        Args:
            units: (N,) integers; `pitch` and `style` (N,) the tokens in force at each.
            voice: default: the first.
            lengths: (N,) of each unit, in frames; default: predicted where no two neighbours are equal, else 1.

        Raises:
            ValueError: there is no unit, or a token or a length is out of range.
        """
        units = np.asarray(units, np.int64)
        repeats = self.run_lengths(units, lengths)
        units = np.repeat(units, repeats)
        if pitch is not None and self.pitch is not None:
            ratio = SAMPLE_RATE / self.hop / self.pitch.rate  # units of a pitch token
            places = (np.arange(math.ceil(len(units) / ratio)) * ratio).astype(int)
            pitch = np.repeat(pitch, repeats)[places]
        yield from self._pieces(units, pitch, None if style is None else np.repeat(style, repeats), voice)

    def run_lengths(self, units: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """(N,) int64 length of each unit, in frames: those given, predicted where no two neighbours are equal, else 1.

        Raises:
            ValueError: there is no unit, or a unit or a length is out of range.
        """
        self._check_units(units)
        if lengths is None:
            whole = len(deduplicate(units)[0]) == len(units)
            return self.lengths(units) if whole else np.ones(len(units), np.int64)
        repeats = np.asarray(lengths, np.int64)
        if repeats.shape != units.shape or repeats.min() < 1:
            raise ValueError(
                f"vocoder: need a length of at least 1 for each of {len(units)} units, got {lengths!r:.60}"
            )
        return repeats

    def synthesise(
        self, units: np.ndarray, pitch: np.ndarray | None = None, style: np.ndarray | None = None,
        voice: Voice | None = None,
    ) -> np.ndarray:  # fmt: skip
        """In one piece; see `stream_frames`."""
        return np.concatenate(list(self.stream_frames(units, pitch, style, voice)))

    def stream_frames(
        self, units: np.ndarray, pitch: np.ndarray | None = None, style: np.ndarray | None = None,
        voice: Voice | None = None,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """Tokens as tokenizers give them, each at its own rate: (F,), (P,), (S,) -> pieces of (F * hop,) float32."""
        units = np.asarray(units, np.int64)
        self._check_units(units)
        if style is not None and len(style):
            style = style_frames(np.asarray(style, np.int64)[:, None], self.hop, 0, len(units))[:, 0]
        yield from self._pieces(units, pitch, style, voice)

    def _check_units(self, units: np.ndarray) -> None:
        if not len(units):
            raise ValueError("vocoder: need at least one unit, got none")
        if units.min() < 0 or units.max() >= self.settings.units:
            wrong = units[(units < 0) | (units >= self.settings.units)][0]
            raise ValueError(f"vocoder: need units from 0 to {self.settings.units - 1}, got {wrong}")

    def _pieces(
        self, units: np.ndarray, pitch: np.ndarray | None, style: np.ndarray | None, voice: Voice | None
    ) -> Iterator[np.ndarray]:
        """Units and style per frame of the encoder, pitch at its rate."""
        voice = self.voice() if voice is None else voice
        up = self.settings.upsampling
        context = self.settings.context + -(-EDGE // up)
        contour = np.zeros((1, 3), np.float32)
        if pitch is not None and len(pitch):
            if self.pitch is None:
                raise ValueError("vocoder: has no pitch tokens of its own; leave them out")
            decoded = pitch_contour(self.pitch, np.asarray(pitch), voice.hertz, len(units) * up)
            contour = np.stack(
                [np.log2(decoded[:, 0] / voice.hertz), decoded[:, 1], np.ones(len(decoded))], axis=1
            )
        runs, phase = np.minimum(place_in_run(units), RUN - 1), 0.0
        styles = self._styles(style)
        vector = torch.from_numpy(voice.vector())[None]
        for start in range(0, len(units), CHUNK):
            count = min(CHUNK, len(units) - start)
            first, wide = start - context, count + 2 * context
            held = np.clip(np.arange(first * up, (first + wide) * up), 0, len(contour) - 1)
            places = np.clip(np.arange(first, first + wide), 0, len(styles) - 1)
            tokens = Tokens(
                torch.from_numpy(cut_padded(units, first, wide, -1))[None],
                torch.from_numpy(cut_padded(runs, first, wide, 0))[None],
                vector,
                torch.from_numpy(styles[places])[None],
                torch.from_numpy(contour[held].astype(np.float32))[None],
            )
            with torch.inference_mode(), one_thread():
                f0, _, harmonic, aperiodic = self.network(tokens)
                hertz = np.clip(voice.hertz * 2.0 ** f0[0].double().numpy(), LOWEST, HIGHEST)
                frames = slice(context * up - EDGE, (context + count) * up + 1)
                rendered = len(range(*frames.indices(wide * up)))
                begin = HOP * frames.start - HOP // 2
                path = per_sample(hertz, begin, HOP * rendered + HOP)
                turns = advance(path, phase)
                phase = turns[count * self.hop - 1]
                place = start * self.hop - HOP * EDGE - HOP // 2 + NOISE_BLOCK
                source = pulses(turns, path), noise(place, len(path))
                made = render(
                    harmonic[:, frames], aperiodic[:, frames], *(torch.from_numpy(x)[None] for x in source)
                )
            skip = FFT - HOP + HOP // 2
            yield made[0, skip : skip + count * self.hop].numpy()

    def _styles(self, style: np.ndarray | None) -> np.ndarray:
        """(F,) tokens -> (F, D) float32; zeros where there are none."""
        if style is None or self.style is None or not len(style):
            return np.zeros((1, self.settings.styles), np.float32)
        if style.min() < 0 or style.max() >= len(self.style):
            raise ValueError(f"vocoder: need style tokens from 0 to {len(self.style) - 1}, got {style.max()}")
        return self.style[style]

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, in half precision."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"vocoder.{n}": t.half() for n, t in self.network.state_dict().items()}
        tensors |= {f"durations.{n}": t.half() for n, t in self.durations.state_dict().items()}
        tensors |= {
            "voice.mean": torch.from_numpy(self.voice_mean),
            "voice.components": torch.from_numpy(self.components),
        }
        if self.style is not None:
            tensors["style"] = torch.from_numpy(np.array(self.style, np.float32))
        write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
        config = {
            "format": FORMAT,
            "network": asdict(self.settings),
            "identity": self.identity,
            "voices": {
                name: {"bands": [round(float(x), 4) for x in v.bands], "hertz": round(v.hertz, 2)}
                for name, v in self.voices.items()
            },
        }
        files.write(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())


def is_vocoder(folder: str | Path) -> bool:
    """Whether a directory holds a vocoder of this kind."""
    path = Path(folder) / "config.json"
    return path.is_file() and f'"{FORMAT}"' in path.read_text(encoding="utf-8", errors="replace")


def load(folder: str | Path | None = None, *, pitch: Any = None) -> Vocoder:
    """The bundled vocoder, or one that `wordweave fit vocoder` wrote.

    Args:
        pitch: the tokenizer that its pitch tokens come from; default: the bundled one, if it is that.

    Raises:
        ValueError: no such vocoder, or not a whole one; names the file.
    """
    folder = BUNDLED if folder is None else Path(folder)
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("format") != FORMAT:
            raise ValueError(f"need format {FORMAT!r}, got {config.get('format')!r}")
        settings = fill(NetworkSettings, config["network"], "network")
        voices = {
            name: Voice(np.array(v["bands"], np.float32), float(v["hertz"]))
            for name, v in config["voices"].items()
        }
        identity = dict(config["identity"])
        if not voices or any(v.bands.shape != (VOICE_BANDS,) for v in voices.values()):
            raise ValueError(f"need voices of {VOICE_BANDS} numbers")
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: need the config of a vocoder: {error}") from error
    file = folder / "model.safetensors"
    weights, _ = read_safetensors(file)
    network, durations = VocoderNetwork(settings), DurationNetwork(settings)
    for prefix, module in (("vocoder.", network), ("durations.", durations)):
        own = {name.removeprefix(prefix): t.float() for name, t in weights.items() if name.startswith(prefix)}
        for name, tensor in module.state_dict().items():
            if name not in own or own[name].shape != tensor.shape:
                got = tuple(own[name].shape) if name in own else "nothing"
                raise ValueError(
                    f"{file}: weight {prefix}{name}: need shape {tuple(tensor.shape)}, got {got}"
                )
        module.load_state_dict(own)
        module.requires_grad_(False)
    if pitch is None and identity.get("pitch"):
        from units.prosody import pitch as pitch_tokens

        bundled = pitch_tokens.load()
        pitch = bundled if bundled.hash == identity["pitch"] else None
    elif pitch is not None and identity.get("pitch") not in (None, pitch.hash):
        pitch = None
    style = weights["style"].numpy() if "style" in weights else None
    return Vocoder(
        network, durations, weights["voice.mean"].numpy(), weights["voice.components"].numpy(), voices, identity,
        pitch=pitch, style=style,
    )  # fmt: skip
