"""How fast shards are woven, written and read, beside webdataset on the same data in the same run.

    python -m benchmarks.shards_speed [--utterances 3000]

CPU seconds of one process, best of seven, so that a busy machine disturbs little. The data are random words and units
of the lengths of read speech (30 words, 12 s), generated here.
"""

import argparse
import gc
import io
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from corpus.records import Utterance, Word
from shards.interleave import interleave, interleave_batch, speech_tokens, text_tokens
from shards.read import open_stream
from shards.samples import read_samples
from shards.sequence import make_document
from shards.strategies import STRATEGIES, Strategy, draw_spans, make_strategy, span_generator
from shards.tar import encode
from shards.text import train_bpe
from shards.utterance import TokenizedUtterance
from shards.vocabulary import Vocabulary
from shards.write import STREAMS, metadata, sample, text_metadata, write_index, write_shard


def best(run: Callable[[], Any], times: int = 7) -> float:
    """CPU seconds of the fastest of a few runs."""
    rates = []
    for _ in range(times):
        gc.collect()
        start = time.process_time()
        run()
        rates.append(time.process_time() - start)
    return min(rates)


def utterance(number: int, words: int, vocabulary: Vocabulary, lexicon: list[str]) -> TokenizedUtterance:
    """Random read speech: 2.6 words a second, units at 25 Hz of which three in ten repeat the one before."""
    rng = np.random.default_rng(number)
    starts = np.cumsum(rng.uniform(0.25, 0.52, words))
    ids, ends = vocabulary.tokenizer.encode_words([lexicon[i] for i in rng.integers(0, len(lexicon), words)])
    seconds = round((float(starts[-1]) + 0.5) * 16000) / 16000
    units = rng.integers(0, 500, int(seconds * 25) - 1)
    repeated = np.flatnonzero(rng.random(len(units)) < 0.3)
    units[repeated] = units[np.maximum(repeated - 1, 0)]
    return TokenizedUtterance(
        f"u{number:06d}", units, 25.0, 0.0225, ids, ends, starts, starts + 0.2, seconds, vocabulary
    )


def samples(rows: list[TokenizedUtterance], stream: str, text: str) -> Iterator[dict[str, Any]]:
    """The training examples of one stream."""
    strategy = make_strategy("spirit")
    for row in rows:
        vocabulary = row.vocabulary
        record = Utterance(row.id, "x.wav", round(row.seconds * 16000), text=text, speaker="s", language="en")
        words = [
            Word("words", float(a), float(b), "words", 0.9) for a, b in zip(row.starts, row.ends, strict=True)
        ]
        if stream == "text":
            yield sample(text_metadata(row.id, vocabulary), make_document(text_tokens(row), vocabulary))
        elif stream == "speech":
            result = metadata(record, vocabulary, stream=stream, tokenized=row, unit_hop=640)
            yield sample(result, make_document(speech_tokens(row), vocabulary), row)
        else:
            result = metadata(
                record,
                vocabulary,
                stream=stream,
                words=words,
                tokenized=row,
                unit_hop=640,
                strategy=strategy,
                seed=0,
            )
            tokens = interleave(row, strategy, span_generator(0, 0, row.id))
            yield sample(result, make_document(tokens, vocabulary), row)


def weaving(vocabulary: Vocabulary, lexicon: list[str]) -> dict[str, float]:
    """Words a second, generator included; utterances as they come from a shard, nothing computed before.

    `together` is what the loader does, a window of 256 at once, `expressive` with pitch and style; `alone` is
    `interleave`, one utterance a call.
    """
    rates = {}
    for words in (30, 300):
        rows = [utterance(i, words, vocabulary, lexicon) for i in range(256)]
        arrays = [[getattr(row, name) for row in rows] for name in ("text", "text_ends", "units")]
        times = [np.stack((row.starts, row.ends)) for row in rows]
        expressive = {
            "pitch": [np.arange(int(row.seconds * 12.5), dtype=np.int16) // 2 % 64 for row in rows],
            "style": [np.arange(int(row.seconds) + 1, dtype=np.int16) for row in rows],
            "pitch_rate": 12.5,
            "style_rate": 1.0,
        }
        for name in sorted(STRATEGIES):
            strategy = make_strategy(name)

            def together(
                more: dict,
                strategy: Strategy = strategy,
                rows: list = rows,
                inputs: tuple = (*arrays, times),
            ) -> None:
                plans = [draw_spans(row.words, strategy, span_generator(0, 0, row.id)) for row in rows]
                interleave_batch(
                    *inputs, plans, vocabulary=vocabulary, unit_rate=25.0, unit_centre=0.0225, **more
                )

            def alone(strategy: Strategy = strategy, rows: list = rows) -> None:
                for row in rows:
                    for cached in ("text_cuts", "unit_cuts", "runs"):
                        row.__dict__.pop(cached, None)
                    interleave(row, strategy, span_generator(0, 0, row.id))

            kinds = {
                "together": partial(together, {}),
                "expressive_together": partial(together, expressive),
                "alone": alone,
            }
            for kind, run in kinds.items():
                rates[f"interleave_{name}_{words}_{kind}_words_per_second"] = len(rows) * words / best(run)
    return rates


def writing(folder: Path, rows: list[TokenizedUtterance], vocabulary: Vocabulary) -> dict[str, float]:
    """Samples a second of write_shard and of TarWriter, on the same members."""
    written = list(samples(rows, "interleaved", "some text"))
    encoded = [
        {name: value if name == "__key__" else encode(name, value) for name, value in one.items()}
        for one in written
    ]

    def theirs(members: list[dict[str, Any]], encoder: bool) -> None:
        with webdataset.TarWriter(str(folder / "theirs.tar"), encoder=encoder, mtime=0) as writer:
            for one in members:
                writer.write(one)

    ours = best(lambda: write_shard(folder / "ours.tar", written, vocabulary))
    bytes_only = best(lambda: theirs(encoded, False))
    encoding = best(lambda: theirs(written, True))
    return {
        "write_samples_per_second": len(written) / ours,
        "write_vs_tarwriter_of_objects": encoding / ours,
        "write_vs_tarwriter_of_bytes": bytes_only / ours,
    }


def reading(build: Path, vocabulary: Vocabulary, utterances: int) -> dict[str, float]:
    """Documents and tokens a second of the loader, and of webdataset on the same tars."""
    rates: dict[str, float] = {}
    for stream in STREAMS:
        paths = sorted(str(path) for path in (build / "shards" / stream).glob("*.tar"))

        def plain(paths: list[str] = paths, decode: bool = False) -> int:
            total = 0
            dataset = webdataset.WebDataset(paths, shardshuffle=False)
            for one in dataset:
                if decode:
                    json.loads(one["json"])
                    total += len(np.load(io.BytesIO(one["tokens.npy"]), allow_pickle=False))
            dataset.close()
            return total

        tokens = plain(decode=True)
        length = 2048
        raw, decoded = best(plain), best(lambda plain=plain: plain(decode=True))
        rates[f"{stream}_webdataset_raw_tokens_per_second"] = tokens / raw
        rates[f"{stream}_webdataset_decoded_tokens_per_second"] = tokens / decoded
        for redraw in (True, False) if stream == "interleaved" else (True,):
            reader = open_stream(build, {stream: 1}, seed=0, sequence_length=length, redraw=redraw)

            def ours(reader: Any = reader) -> None:
                for _ in range(tokens // length):  # noqa: B023
                    next(reader)

            seconds = best(ours)
            name = stream if redraw else f"{stream}_materialised"
            rates[f"{name}_loader_tokens_per_second"] = tokens / seconds
            rates[f"{name}_loader_vs_webdataset_raw"] = raw / seconds
            rates[f"{name}_loader_vs_webdataset_decoded"] = decoded / seconds
    reader = open_stream(build, dict.fromkeys(STREAMS, 1), seed=0, sequence_length=2048)
    rates["mixture_loader_tokens_per_second"] = 500 * 2048 / best(lambda: [next(reader) for _ in range(500)])
    paths = sorted((build / "shards" / "interleaved").glob("*.tar"))
    rates["read_samples_per_second"] = utterances / best(
        lambda: [0 for path in paths for _ in read_samples(path)]
    )
    return rates


def memory(build: Path) -> dict[str, float]:
    """Growth of the peak memory over four times as many tokens of the mixture; in a process of its own."""
    reader = open_stream(build, dict.fromkeys(STREAMS, 1), seed=0, sequence_length=2048)

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    for _ in range(1500):
        next(reader)
    first = peak()
    for _ in range(4500):
        next(reader)
    return {"peak_megabytes": peak(), "peak_growth_megabytes_over_four_times_the_tokens": peak() - first}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=3000)
    utterances = parser.parse_args().utterances
    lexicon = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("a", "ee", "o") for c in ("n", "ll", "st", "")]
    with tempfile.TemporaryDirectory() as name:
        build = Path(name)
        vocabulary = Vocabulary(
            train_bpe([" ".join(lexicon)] * 2, build / "tokenizer.json", size=400),
            pitch=64,
            style=100,
            tasks=True,
        )
        rows = [utterance(i, 30, vocabulary, lexicon) for i in range(utterances)]
        entries: dict[str, Any] = {}
        for stream in STREAMS:
            (build / "shards" / stream).mkdir(parents=True)
            entries[stream] = {"train": []}
            for first in range(0, utterances, 1000):
                path = build / "shards" / stream / f"train-{first // 1000:06d}.tar"
                written = samples(rows[first : first + 1000], stream, "some text " * 15)
                entries[stream]["train"].append(write_shard(path, written, vocabulary))
        write_index(build / "shards", entries, vocabulary)
        rates = weaving(vocabulary, lexicon) | writing(build, rows[:1000], vocabulary)
        rates |= reading(build, vocabulary, utterances)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rates |= pool.apply(memory, (build,))
    for key, value in rates.items():
        print(f"{key:60} {value:14,.2f}")


if __name__ == "__main__":
    main()
