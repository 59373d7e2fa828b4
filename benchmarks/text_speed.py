"""MB/s on one core of each step that text goes through: read, language, duplicates, counted, tokenised and written.

    python -m benchmarks.text_speed DOCUMENTS

DOCUMENTS is a file of one document per line. Seconds are CPU time of this process; MB are of the text in UTF-8.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documents", type=Path)
    path = parser.parse_args().documents
    size = path.stat().st_size

    from corpus.documents import read_documents, write_documents
    from pipelines.steps.interleave import Rates, WriteShard
    from pipelines.steps.vocabulary import text_words
    from shards.strategies import make_strategy
    from shards.text import count_pieces, load_tokenizer, train_bpe_on_counts
    from shards.vocabulary import Vocabulary
    from shards.write import write_shard

    def measure(name: str, step: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = step()
        print(f"| {name} | {size / 1e6 / (time.process_time() - started):.1f} MB/s |", flush=True)
        return result

    print(f"| {size / 1e6:.1f} MB of text, one core | |\n|---|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = measure("read, plain", lambda: list(read_documents([path])))
        pq.write_table(pa.table({"text": [row["text"] for row in rows]}), folder / "a.parquet")
        measure("read, Parquet", lambda: list(read_documents([folder / "a.parquet"])))
        measure("text parts written", lambda: write_documents(iter(rows), folder / "text"))
        for how in ("exact", "near"):
            measure(
                f"duplicates {how}, written",
                lambda how=how: write_documents(iter(rows), folder / how, duplicates=how),  # type: ignore[misc]
            )
        good = [row for row in rows if row["text"]]
        texts = [row["text"] or "" for row in good]
        for normalisation in ("spoken", "original"):
            counts = measure(
                f"words counted, {normalisation}",
                lambda normalisation=normalisation: count_pieces(  # type: ignore[misc]
                    Counter(chain.from_iterable(text_words(text, normalisation) for text in texts))
                ),
            )
            train_bpe_on_counts(counts, folder / "tokenizer.json", size=1000)
            vocabulary = Vocabulary(load_tokenizer(folder / "tokenizer.json"), units=501)
            stage = WriteShard("", "", normalisation, Rates(320, 200), make_strategy("spirit"), 0, True)
            measure(
                f"tokenised and written to shards, {normalisation}",
                lambda normalisation=normalisation, stage=stage, vocabulary=vocabulary: write_shard(  # type: ignore[misc]
                    folder / f"{normalisation}.tar",
                    (stage.text_sample(vocabulary, row, {}) for row in good),
                    vocabulary,
                ),
            )


if __name__ == "__main__":
    main()
