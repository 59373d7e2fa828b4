"""What a listener gets from tokens: vocoders on one table, on recordings that none of the bundled ones learnt from.

    python -m benchmarks.vocoder                                      # the bundled vocoder, words by pocketsphinx
    python -m benchmarks.vocoder --recogniser DIR --vocoder DIR       # words by a Whisper too, and another vocoder
    python -m benchmarks.vocoder --set choices                        # the clips that settings are chosen on
    python -m benchmarks.vocoder --mood                               # emotion read from resynthesis
    python -m benchmarks.vocoder --pictures FOLDER                    # spectrograms
    python -m benchmarks.vocoder --speed                              # times real time, and memory of an hour

Recorded speech is looked for where WORDWEAVE_SPEECH says (default ../shared/speech). Units are those of `compact`.

Whisper: DIR is a Whisper in Hugging Face format (config.json, model.safetensors, tokenizer.json); it decodes greedily.
A recogniser that loops on bad sound counts at most as many errors as words. pocketsphinx: the
model of its wheel with a bigram of the sentences under test, a closed grammar, which needs nothing else.
WER: words as spoken after normalising numbers. cycle: share of units that come out when the result is encoded again.
F0: median difference in cents and root mean square, of frames voiced in both. LSD: log-spectral distance in dB at
one level. All intervals are of 2000 bootstrap samples of clips; differences are of the same clips in both.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torchaudio  # noqa: E402

from aligners.normalise import normalise  # noqa: E402
from benchmarks.pitch import SPEECH  # noqa: E402
from corpus.keyed import generator  # noqa: E402
from corpus.records import SAMPLE_RATE  # noqa: E402
from lm.evaluation.external_tools import vocode  # noqa: E402
from lm.speaker import Speaker, open_speaker, read_audio, wav_bytes  # noqa: E402
from shards.stream import merge  # noqa: E402
from units import kmeans  # noqa: E402
from units.deduplicate import deduplicate  # noqa: E402
from units.encoders import bundled_codebook, load_encoder  # noqa: E402
from units.prosody import pitch as pitches  # noqa: E402
from units.prosody import style as styles  # noqa: E402
from units.prosody.f0 import F0, extract  # noqa: E402
from units.vocoder.data import at_level  # noqa: E402
from units.vocoder.signal import HOP, log_mel  # noqa: E402
from units.vocoder.vocoder import Vocoder  # noqa: E402
from units.whisper import mel_filters  # noqa: E402

SETS = {
    "test": (
        "ls-1688",
        "ls-1998",
        "ls-2033",
        "ls-2412",
        "ls-3080",
        "ls-61-",
        "jfk",
        "lj-LJ001-002",
        "pm-LJ001-00",
    ),
    "choices": ("ls-2609", "ls-3005", "lj-LJ001-003"),
}
"""How the ids begin of clips that nothing was learnt from; `choices` is what settings were chosen on."""
HELD_OUT_ACTORS = ("emodb-09", "emodb-10", "emodb-11")
GROUPS = {"lj": "LJ", "pm": "pm", "ls": "unseen", "jfk": "unseen"}
MEAN_CLIPS = 80  # that the mean mel of each unit is of
Words = list[str]


class Clip:
    """A recording with its tokens."""

    def __init__(self, id: str, wave: np.ndarray, text: str = "", speaker: str = ""):
        self.id, self.text, self.speaker = id, text, speaker
        self.wave = at_level(wave)

    def tokenize(
        self, encode: Callable[[np.ndarray], np.ndarray], pitch: Any, style: Any,
        mean: np.ndarray | None = None, hertz: float | None = None,
    ) -> "Clip":  # fmt: skip
        """With its tokens; `mean` of the style features and `hertz`, mean F0, of its speaker where they are known."""
        from units.prosody.style_features import pool

        self.units, self.f0 = encode(self.wave), extract(self.wave)
        self.pitch = pitch.encode(self.f0, hertz)
        self.features = pool(self.wave, self.f0)
        self.style = style.assign(self.features, mean)
        self.frames = [int(n) for n in deduplicate(self.units)[1]]
        return self

    def tokens(self, *, pitch: bool = True, style: bool = True) -> str:
        """The stream of its tokens."""
        p, s = (self.pitch if pitch else None), (self.style if style else None)
        return "".join(merge(self.units, p, s, unit_rate=25.0))


def read_clips(prefixes: Sequence[str], folder: str = "dev") -> list[Clip]:
    """Clips whose ids begin so, in the order of the manifest."""
    lines = (SPEECH / folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["id"].startswith(tuple(prefixes))]
    return [
        Clip(row["id"], read_audio(SPEECH / folder / row["audio"]), row["text"] or "", row["speaker"]) for row in rows
    ]  # fmt: skip


def words_of(text: str) -> Words:
    """Words as they are spoken."""
    return [word for token in normalise(text) for word in token.spoken]


class Whisper:
    """Greedy transcripts of a Whisper in Hugging Face format."""

    name = "Whisper"

    def __init__(self, folder: Path):
        from transformers import PreTrainedTokenizerFast, WhisperForConditionalGeneration

        self.model = (
            WhisperForConditionalGeneration.from_pretrained(folder, local_files_only=True).float().eval()
        )
        self.encoder = load_encoder(folder)
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        known = self.tokenizer.get_vocab()
        start = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
        multilingual = self.model.config.vocab_size > 51_864
        self.start = [known[name] for name in (start if multilingual else [start[0], start[-1]])]
        self.end = known["<|endoftext|>"]

    def __call__(self, wave: np.ndarray) -> str:
        """The transcript of (T,) float32."""
        from transformers import DynamicCache, EncoderDecoderCache

        with torch.inference_mode():
            states = torch.from_numpy(
                self.encoder.encode([np.pad(wave, (0, max(0, 30 * SAMPLE_RATE - len(wave))))])[0]
            )[None]
            ids, cache, last = (
                list(self.start),
                EncoderDecoderCache(DynamicCache(), DynamicCache()),
                list(self.start),
            )
            for _ in range(160):
                scores = self.model(
                    encoder_outputs=(states,), decoder_input_ids=torch.tensor([last]), past_key_values=cache,
                    use_cache=True,
                ).logits[0, -1]  # fmt: skip
                last = [int(scores[: self.end + 1].argmax())]
                if last[0] == self.end:
                    break
                ids += last
        return self.tokenizer.decode(ids[len(self.start) :], skip_special_tokens=True)


class Sphinx:
    """pocketsphinx with a bigram of given sentences."""

    name = "pocketsphinx"

    def __init__(self, sentences: Sequence[Words]):
        from pocketsphinx import Decoder

        from aligners.g2p import pronounce

        self.folder = tempfile.TemporaryDirectory()
        grammar = Path(self.folder.name) / "bigram.lm"
        self.decoder = Decoder(loglevel="FATAL", cmn="batch", lm=None)
        for word in sorted({word for sentence in sentences for word in sentence}):
            if self.decoder.lookup_word(word) is None and (phones := pronounce(word)):
                self.decoder.add_word(word, " ".join(phones), True)
        known = [[word for word in s if self.decoder.lookup_word(word) is not None] for s in sentences]
        grammar.write_text(bigram(known), encoding="utf-8")
        self.decoder.add_lm("closed", self.read(grammar))
        self.decoder.activate_search("closed")

    def read(self, path: Path) -> Any:
        """The language model of a file."""
        from pocketsphinx import NGramModel

        return NGramModel(self.decoder.config, self.decoder.logmath, str(path))

    def __call__(self, wave: np.ndarray) -> str:
        """The transcript of (T,) float32."""
        from aligners.pocketsphinx import Piece, decode, word_of_label

        decode(self.decoder, Piece(0, wave, ()))
        return " ".join(word for one in self.decoder.seg() or () if (word := word_of_label(one.word)))


def bigram(sentences: Sequence[Words]) -> str:
    """A language model in ARPA format: bigrams of the sentences, a tenth of the mass for other pairs of their words."""
    single = Counter(word for s in sentences for word in [*s, "</s>"])
    pairs = Counter(pair for s in sentences for pair in zip(["<s>", *s], [*s, "</s>"], strict=True))
    first = Counter(a for a, _ in pairs.elements())
    total = sum(single.values())
    lines = ["\\data\\", f"ngram 1={len(single) + 1}", f"ngram 2={len(pairs)}", "", "\\1-grams:"]
    lines += [f"-99 <s> {np.log10(0.1):.4f}"]
    lines += [f"{np.log10(n / total):.4f} {word} {np.log10(0.1):.4f}" for word, n in sorted(single.items())]
    lines += ["", "\\2-grams:"]
    lines += [f"{np.log10(0.9 * n / first[a]):.4f} {a} {b}" for (a, b), n in sorted(pairs.items())]
    return "\n".join([*lines, "", "\\end\\", ""])


def errors(reference: Words, recognised: Words) -> int:
    """Word errors, at most as many as there are words."""
    row = list(range(len(recognised) + 1))
    for i, word in enumerate(reference, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(recognised, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return min(row[-1], len(reference))


class MeanMel:
    """The baseline: the mean log-mel of each unit's frames, and Griffin-Lim."""

    def __init__(self, clips: Sequence[tuple[np.ndarray, np.ndarray]], units: int):
        sums, counts = np.zeros((units, 4, 80)), np.zeros(units)
        for wave, own in clips:
            frames = log_mel(torch.from_numpy(wave)[None])[0].numpy()[: 4 * len(own)].reshape(-1, 4, 80)
            np.add.at(sums, own[: len(frames)], frames)
            np.add.at(counts, own[: len(frames)], 1)
        mean = sums.sum(axis=0) / counts.sum()
        self.table = np.where(counts[:, None, None] > 0, sums / np.maximum(counts, 1)[:, None, None], mean)

    def __call__(self, units: np.ndarray) -> np.ndarray:
        """(F,) -> (F * 640,) float32."""
        frames = torch.from_numpy(self.table[units].reshape(-1, 80)).float()
        count = len(frames) * HOP
        frames = torch.cat([frames, frames[-1:]])  # one more frame than hops
        _, filters = mel_filters(80, torch.device("cpu"))
        power = ((2 * frames).exp() @ torch.linalg.pinv(filters)).clamp(min=1e-10)
        torch.manual_seed(0)
        wave = torchaudio.functional.griffinlim(
            power.sqrt().T, torch.hann_window(400), 400, HOP, 400, 1.0, 60, 0.99, count, True
        )
        return at_level(wave.numpy())


def lsd(made: np.ndarray, true: np.ndarray) -> float:
    """Log-spectral distance in dB."""
    n = min(len(made), len(true))
    window = torch.hann_window(512)
    spectra = [
        torch.stft(torch.from_numpy(x[:n].copy()), 512, HOP, window=window, return_complex=True).abs() + 1e-3
        for x in (made, true)
    ]
    return float((20 * (spectra[0] / spectra[1]).log10()).square().mean(dim=0).sqrt().mean())


def cents(made: F0, true: F0) -> np.ndarray:
    """Differences of frames voiced in both."""
    n = min(len(made), len(true))
    both = made.voiced[:n] & true.voiced[:n]
    return 1200 * np.log2(made.hertz[:n][both] / true.hertz[:n][both])


def interval(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """95 % interval of sum(values) / sum(weights) over clips."""
    rows = generator(0, "vocoder bootstrap").integers(len(values), size=(2000, len(values)))
    low, high = np.percentile(values[rows].sum(1) / weights[rows].sum(1), [2.5, 97.5])
    return float(low), float(high)


def systems_of(speakers: Sequence[Speaker | str], voices: bool) -> dict[str, Callable[[Clip], np.ndarray]]:
    """Ways to make a recording of a clip's tokens, by name."""

    def through(speaker: Speaker | str, tokens: str, frames: list[int] | None) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            return read_audio(vocode(speaker, tokens, Path(folder) / "x.wav", frames=frames, hop=640))

    def like(speaker: Speaker | str, clip: Clip) -> Speaker | str:
        return speaker.like(clip.wave) if isinstance(speaker, Speaker) else speaker

    systems: dict[str, Callable[[Clip], np.ndarray]] = {}
    for one in speakers:
        name = one.name if isinstance(one, Speaker) else one
        systems[name] = lambda clip, s=one: through(like(s, clip), clip.tokens(), clip.frames)
        systems[f"{name}, predicted lengths and pitch"] = lambda clip, s=one: through(
            like(s, clip), clip.tokens(pitch=False), None
        )
        systems[f"{name}, units alone"] = lambda clip, s=one: through(
            like(s, clip), clip.tokens(pitch=False, style=False), clip.frames
        )
        if voices and isinstance(one, Speaker) and isinstance(one.vocoder, Vocoder):
            for voice in one.vocoder.voices:
                other = Speaker(one.vocoder, voice, one.name)
                systems[f"{name}, voice {voice}"] = lambda clip, s=other: through(
                    s, clip.tokens(), clip.frames
                )
    return systems


def table(
    clips: Sequence[Clip], systems: dict[str, Callable[[Clip], np.ndarray]], recognisers: Sequence[Any],
    encode: Callable[[np.ndarray], np.ndarray], keep: Path | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every system on every clip."""
    references = [words_of(clip.text) for clip in clips]
    lengths = np.array([len(reference) for reference in references])
    groups = np.array([GROUPS[clip.id.partition("-")[0]] for clip in clips])
    rows, counted = [], {}
    for name, make in systems.items():
        waves = [make(clip) for clip in clips]
        for clip, wave in zip(clips, waves, strict=True):
            if keep:
                path = keep / name.replace("/", "-").replace(" ", "_") / f"{clip.id}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(wav_bytes(wave))
        row: dict[str, Any] = {"system": name}
        for recogniser in recognisers:
            wrong = np.array(
                [errors(r, words_of(recogniser(wave))) for r, wave in zip(references, waves, strict=True)]
            )
            counted[name, recogniser.name] = wrong
            row[f"WER {recogniser.name}"] = 100 * wrong.sum() / lengths.sum()
            row[f"interval {recogniser.name}"] = [100 * x for x in interval(wrong, lengths)]
            row |= {
                f"WER {recogniser.name} {group}": 100
                * wrong[groups == group].sum()
                / lengths[groups == group].sum()
                for group in dict.fromkeys(groups)
            }
        own = [encode(at_level(wave)) for wave in waves]
        same = np.array(
            [(a[: len(b)] == b[: len(a)]).sum() for a, b in zip(own, [c.units for c in clips], strict=True)]
        )
        sizes = np.array([len(clip.units) for clip in clips])
        row["cycle"], row["interval cycle"] = same.sum() / sizes.sum(), interval(same, sizes)
        if "predicted" not in name:
            row["LSD"] = float(np.mean([lsd(at_level(w), c.wave) for w, c in zip(waves, clips, strict=True)]))
            found = [cents(extract(wave), clip.f0) for wave, clip in zip(waves, clips, strict=True)]
            every = np.concatenate(found)
            row["F0 median"], row["F0 RMS"] = (
                float(np.median(np.abs(every))),
                float(np.sqrt(np.mean(every**2))),
            )
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    baseline = "mean mel + Griffin-Lim"
    for row in rows:
        for recogniser in recognisers:
            change = counted[row["system"], recogniser.name] - counted[baseline, recogniser.name]
            row[f"against baseline {recogniser.name}"] = [100 * change.sum() / lengths.sum()] + [
                100 * x for x in interval(change, lengths)
            ]
    return rows


def show(rows: Sequence[dict[str, Any]], recognisers: Sequence[Any], clips: Sequence[Clip]) -> None:
    """Print the table."""
    seconds = sum(len(clip.wave) for clip in clips) / SAMPLE_RATE
    print(f"{len(clips)} clips, {seconds:.0f} s, {len({clip.speaker for clip in clips})} speakers\n")
    heads = [f"WER {r.name} (interval; LJ/pm/unseen)" for r in recognisers]
    print("| | " + " | ".join([*heads, "against baseline", "cycle", "LSD", "F0 cents, median (RMS)"]) + " |")
    print("|---" * (len(heads) + 5) + "|")
    for row in rows:
        cells = []
        for r in recognisers:
            low, high = row[f"interval {r.name}"]
            parts = "/".join(
                f"{row[key]:.0f}" for g in ("LJ", "pm", "unseen") if (key := f"WER {r.name} {g}") in row
            )
            cells.append(f"{row[f'WER {r.name}']:.1f} ({low:.0f} to {high:.0f}; {parts})")
        change, low, high = row[f"against baseline {recognisers[0].name}"]
        cells.append(f"{change:+.1f} ({low:+.0f} to {high:+.0f})")
        in_time = "LSD" in row  # other lengths: there is nothing to compare frame by frame
        cells.append(f"{row['cycle']:.3f}" if in_time else "")
        cells.append(f"{row['LSD']:.1f}" if in_time else "")
        cells.append(f"{row['F0 median']:.0f} ({row['F0 RMS']:.0f})" if in_time else "")
        print(f"| {row['system']} | " + " | ".join(cells) + " |")


def mood(
    speaker: Speaker, encode: Callable[[np.ndarray], np.ndarray], pitch: Any, cache: Path | None = None
) -> None:
    """Emotion read from recordings of actors the vocoder does not know, and from their resynthesis.

    The codebook and the classifier of `benchmarks.style` are fitted on the recordings of all other speakers, for each
    actor anew; the speaker's mean is that of the clips it is subtracted from.
    """
    from benchmarks.style import FIVE, classifier, fitted, read, recall
    from units.prosody.style_features import pool

    rows = read(cache)
    bundled = styles.load()
    acted = [row for row in rows if row["set"] == "emotion"]
    kinds = {"recordings": None, "pitch and style tokens": (True, True), "neither": (False, False),
             "pitch tokens": (True, False), "style tokens": (False, True)}  # fmt: skip
    found: dict[str, tuple[list[str], list[str]]] = {name: ([], []) for name in kinds}
    for actor in HELD_OUT_ACTORS:
        tokenizer = fitted([row for row in rows if row["speaker"] != actor], clusters=styles.CODES, seed=0)

        def points(group: list[dict[str, Any]], t: Any = tokenizer) -> dict[str, np.ndarray]:
            mean = t.speaker_mean([row["seconds"] for row in group])
            return {row["id"]: t.embed(row["seconds"], mean).mean(axis=0) for row in group}

        train: dict[str, np.ndarray] = {}
        others = sorted({row["speaker"] for row in acted} - {actor})
        for other in others:
            train |= points([row for row in acted if row["speaker"] == other])
        labels = {row["id"]: row["emotion"] for row in acted}
        learnt = [name for name in train if labels[name] in FIVE]
        model = classifier().fit([train[name] for name in learnt], [labels[name] for name in learnt])
        own = [row for row in acted if row["speaker"] == actor]
        mean = bundled.speaker_mean([row["seconds"] for row in own])
        voice = np.concatenate([at_level(row["waveform"]) for row in own])
        hertz = extract(voice).mean
        clips = [
            Clip(row["id"], row["waveform"]).tokenize(encode, pitch, bundled, mean, hertz) for row in own
        ]
        for name, kind in kinds.items():
            made = own
            if kind is not None:
                voiced = speaker.like(voice)
                made = []
                for row, clip in zip(own, clips, strict=True):
                    wave = np.concatenate(
                        list(voiced.pieces(clip.tokens(pitch=kind[0], style=kind[1]), clip.frames))
                    )
                    made.append({**row, "seconds": pool(wave)})
            places = points(made)
            for row in own:
                if row["emotion"] in FIVE:
                    found[name][0].append(row["emotion"])
                    found[name][1].append(str(model.predict([places[row["id"]]])[0]))
    true, original = found["recordings"]
    print(f"emotion of {len(true)} clips of {len(HELD_OUT_ACTORS)} actors, five classes, UAR; chance .20")
    for name, (_, read_as) in found.items():
        same = np.mean([a == b for a, b in zip(read_as, original, strict=True)])
        print(f"{name:28} {recall(true, read_as):.3f}  as from the recording: {same:.3f}")


def draw(clips: Sequence[Clip], speaker: Speaker, folder: Path) -> None:
    """Spectrograms of clips (top) and of what the vocoder makes of their tokens (bottom), one picture each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"NFFT": 512, "Fs": SAMPLE_RATE, "noverlap": 384, "vmin": -130, "vmax": -45}
    for clip in clips:
        made = np.concatenate(list(speaker.like(clip.wave).pieces(clip.tokens(), clip.frames)))
        figure, axes = pyplot.subplots(2, 1, figsize=(9, 4.6), sharex=True, layout="constrained")
        for axis, wave, title in zip(axes, (clip.wave, made), ("recording", "from its tokens"), strict=True):
            axis.specgram(wave[: 5 * SAMPLE_RATE] + 1e-7, cmap="magma", **settings)
            axis.set(ylabel="Hz", title=f"{clip.id}: {title}")
        axes[1].set(xlabel="s")
        figure.savefig(folder / f"{clip.id}.png", dpi=80)
        pyplot.close(figure)


def speed(speaker: Speaker) -> None:
    """Times real time on one thread, and the memory of an hour."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    units, pitch, style = (
        rng.integers(501, size=90_000),
        rng.integers(64, size=90_000),
        rng.integers(100, size=90_000),
    )
    for _ in speaker.vocoder.stream(units[:500], pitch[:500], style[:500], speaker.voice):
        pass
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, samples = time.process_time(), 0
    ones = np.ones(len(units), np.int64)
    for piece in speaker.vocoder.stream(units, pitch, style, speaker.voice, ones):
        samples += len(piece)
    used = time.process_time() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{samples / SAMPLE_RATE / used:.0f} x real time; an hour: {(after - before) / 1024:.0f} MB more than 20 s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocoder", action="append", help="bundled, a directory or a command; several times")
    parser.add_argument("--recogniser", type=Path, help="directory of a Whisper in Hugging Face format")
    parser.add_argument("--set", choices=list(SETS), default="test")
    parser.add_argument("--voices", action="store_true", help="the vocoder's own voices too")
    parser.add_argument("--no-sphinx", action="store_true", help="leave pocketsphinx out")
    parser.add_argument("--mood", action="store_true")
    parser.add_argument("--cache", type=Path, help="folder that keeps F0 between runs, for --mood")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--pictures", type=Path, help="folder for spectrograms of every seventh clip")
    parser.add_argument("--keep", type=Path, help="folder for the recordings made")
    parser.add_argument("--output", type=Path, help="JSON of the table")
    options = parser.parse_args()
    if not (SPEECH / "dev" / "manifest.jsonl").exists():
        sys.exit(f"no recorded speech at {SPEECH}; set WORDWEAVE_SPEECH")
    torch.set_num_threads(1)
    encoder, book = load_encoder("compact"), kmeans.load(bundled_codebook())

    def encode(wave: np.ndarray) -> np.ndarray:
        return book.assign(encoder.encode([wave])[0])

    pitch, style = pitches.load(), styles.load()
    speakers: list[Speaker | str] = []
    for name in options.vocoder or ["bundled"]:
        opened = open_speaker(name, pitch_tokenizer=pitch)
        assert opened is not None
        speakers.append(opened)
    if options.mood or options.speed:
        for one in speakers:
            if isinstance(one, Speaker):
                speed(one) if options.speed else mood(one, encode, pitch, options.cache)
        return
    clips = [clip.tokenize(encode, pitch, style) for clip in read_clips(SETS[options.set])]
    if options.pictures:
        draw(clips[::7], next(one for one in speakers if isinstance(one, Speaker)), options.pictures)
        return
    recognisers: list[Any] = [Whisper(options.recogniser)] if options.recogniser else []
    recognisers += [] if options.no_sphinx else [Sphinx([words_of(clip.text) for clip in clips])]
    rows = (SPEECH / "unlabelled" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[:MEAN_CLIPS]
    learnt = [at_level(read_audio(SPEECH / "unlabelled" / json.loads(row)["audio"])) for row in rows]
    baseline = MeanMel([(wave, encode(wave)) for wave in learnt], book.clusters)
    systems: dict[str, Callable[[Clip], np.ndarray]] = {
        "original": lambda clip: clip.wave,
        "mean mel + Griffin-Lim": lambda clip: baseline(clip.units),
        **systems_of(speakers, options.voices),
    }
    result = table(clips, systems, recognisers, encode, options.keep)
    show(result, recognisers, clips)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
