"""Pictures of prosody."""

from pathlib import Path

import numpy as np

from corpus.records import SAMPLE_RATE
from units.prosody.f0 import F0, RATE


def plot_prosody(
    waveform: np.ndarray,
    f0: F0,
    reconstruction: F0,
    tokens: np.ndarray,
    path: str | Path,
    *,
    rate: float,
    style: np.ndarray | None = None,
) -> None:
    """A picture of F0, its reconstruction and the tokens over the spectrogram.

    Args:
        waveform: (T,) float32 at 16 kHz.
        f0, reconstruction: before and after the tokens; plotted where they are voiced.
        tokens: (P,) pitch tokens, each written where its run begins.
        path: of a .png, or of another kind of file that matplotlib writes.
        rate: of the pitch tokens, Hz.
        style: (S,) style tokens.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = len(waveform) / SAMPLE_RATE
    figure = Figure(figsize=(min(40.0, max(8.0, 2.6 * seconds)), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    lower, upper = figure.subplots(2, 1, sharex=True, height_ratios=[1, 5])
    size = 640
    padded = np.pad(waveform, (size // 2, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[: len(waveform) + 1 : 160]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), 2048)) ** 2
    top = max(300.0, 1.3 * float(np.max(f0.hertz, initial=0.0, where=f0.voiced)))
    kept = round(top / SAMPLE_RATE * 2048) + 1
    level = 10 * np.log10(power[:, :kept].T + 1e-9)
    peak = float(level.max(initial=-90.0))
    upper.imshow(
        level, origin="lower", aspect="auto", cmap="gray_r", vmin=peak - 60, vmax=peak + 10,
        extent=(0, len(frames) * 0.01, 0, (kept - 1) * SAMPLE_RATE / 2048),
    )  # fmt: skip
    for contour, colour, width, name in (
        (f0, "tab:blue", 3.5, "F0"),
        (reconstruction, "tab:orange", 1.5, "from pitch tokens"),
    ):
        hertz = np.where(contour.voiced, contour.hertz, np.nan)
        upper.plot(np.arange(len(contour)) / RATE, hertz, color=colour, linewidth=width, label=name)
    upper.set(xlabel="seconds", ylabel="Hz", xlim=(0, max(seconds, 0.01)), ylim=(0, top))
    upper.legend(loc="upper right")
    first = [i for i, token in enumerate(tokens) if i == 0 or token != tokens[i - 1]]
    for row, i in enumerate(first):
        lower.axvline(i / rate, color="lightgray", linewidth=0.5)
        lower.text(i / rate, 0.08 + 0.3 * (row % 2), f"Pi{tokens[i]}", fontsize=7)
    for i, token in enumerate(() if style is None else style):
        lower.text(i, 0.72, f"St{token}", fontsize=9, color="tab:red")
    lower.set(ylim=(0, 1), yticks=[])
    figure.savefig(path, dpi=110)
