"""Units, pitch and style tokens to a waveform: the bundled vocoder, how one is trained, and third-party vocoders."""

from pathlib import Path
from typing import Any


def load_vocoder(folder: str | Path | None = None, *, pitch: Any = None) -> Any:
    """The bundled vocoder, one that `wordweave fit vocoder` wrote, or a unit HiFi-GAN: by what the directory holds.

    Args:
        pitch: the tokenizer that pitch tokens come from; default: the bundled one.

    Raises:
        ValueError: it holds none of these, or not a whole one; names the file.
    """
    from units.vocoder.hifigan import load_hifigan
    from units.vocoder.vocoder import is_vocoder, load

    return load(folder, pitch=pitch) if folder is None or is_vocoder(folder) else load_hifigan(folder)
