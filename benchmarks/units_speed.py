"""Throughput of unit encoding on real utterance lengths, against plain transformers, in one run.

    python -m benchmarks.units_speed [--utterances 40] [--threads 1] [--repeats 2]
    python -m benchmarks.units_speed --long 3

HuBERT-base with random weights (12 blocks of 768; speed does not depend on their values). bfloat16 is run where the
device computes in it. On a CPU, CPU time is compared, not wall time, so that a busy machine disturbs less; each figure
is the best of `--repeats` interleaved rounds. The recorded speech is looked for where WORDWEAVE_SPEECH says; without
it, noise of typical lengths is used.

With `--long`, one recording of N hours is synthesised and encoded by the bundled encoder: speed, and the
peak memory beside the samples themselves.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

from tests.helpers.memory import peak_memory

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="utterances in a padded batch of transformers")
    parser.add_argument("--clusters", type=int, default=501)
    parser.add_argument("--long", type=float, help="hours of one recording for the bundled encoder")
    arguments = parser.parse_args()
    if arguments.long:
        one_long_recording(arguments)
        return
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    import numpy as np
    import torch
    from transformers import HubertConfig, HubertModel
    from transformers.utils import logging

    from units.encoders import load_encoder
    from units.kmeans import Codebook
    from units.verify import fast_half_types

    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    waveforms, kind = read_waveforms(arguments.utterances)
    seconds = sum(map(len, waveforms)) / 16_000
    lengths = sorted(len(waveform) / 16_000 for waveform in waveforms)
    model = HubertModel(HubertConfig()).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        half = "bfloat16" in fast_half_types(torch.device("cpu"))
        dtypes = ("float32", "bfloat16") if half else ("float32",)
        ours = {dtype: load_encoder(folder, dtype=dtype) for dtype in dtypes}

    @torch.inference_mode()
    def one_by_one() -> list[np.ndarray]:
        return [
            model(torch.from_numpy(waveform)[None]).last_hidden_state[0].numpy() for waveform in waveforms
        ]

    @torch.inference_mode()
    def padded() -> list[np.ndarray]:
        features: dict[int, np.ndarray] = {}
        order = sorted(
            range(len(waveforms)), key=lambda i: -len(waveforms[i])
        )  # the best a padded batch can do
        for start in range(0, len(order), arguments.batch):
            batch = order[start : start + arguments.batch]
            values = torch.zeros(len(batch), len(waveforms[batch[0]]))
            mask = torch.zeros_like(values, dtype=torch.long)
            for row, i in enumerate(batch):
                values[row, : len(waveforms[i])] = torch.from_numpy(waveforms[i])
                mask[row, : len(waveforms[i])] = 1
            states = model(values, attention_mask=mask).last_hidden_state
            for row, i in enumerate(batch):
                features[i] = states[row, : ours["float32"].settings.frames(len(waveforms[i]))].numpy()
        return [features[i] for i in range(len(waveforms))]

    runs = {
        "transformers, one by one": one_by_one,
        f"transformers, padded by {arguments.batch}": padded,
        **{f"wordweave {dtype}": lambda one=one: one.encode(waveforms) for dtype, one in ours.items()},
    }
    results, times = {}, dict.fromkeys(runs, float("inf"))
    for _ in range(arguments.repeats):
        for name, run in runs.items():
            start = time.process_time()
            results[name] = run()
            times[name] = min(times[name], time.process_time() - start)

    exact = results["transformers, one by one"]
    frames = np.concatenate(exact)
    rows = np.random.default_rng(0).permutation(len(frames))[: arguments.clusters]
    codebook = Codebook(frames[rows])
    units = {name: np.concatenate([codebook.assign(x) for x in result]) for name, result in results.items()}
    best = min(times[name] for name in list(runs)[:2])
    print(
        f"{len(waveforms)} utterances of {kind}, {lengths[0]:.1f} to {lengths[-1]:.1f} s, {seconds:.0f} s in all"
    )
    print(f"{arguments.threads} thread(s), torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"\n{'':30}{'x real time':>12}{'ratio':>8}{'other units':>13}{'largest error':>15}")
    for name in runs:
        error = max(np.abs(a - b).max() for a, b in zip(results[name], exact, strict=True))
        differ = (units[name] != units["transformers, one by one"]).mean()
        print(f"{name:30}{seconds / times[name]:12.2f}{best / times[name]:8.2f}{differ:13.2%}{error:15.1e}")
    alone = [ours["float32"].encode([waveform])[0] for waveform in waveforms]
    together = results["wordweave float32"]
    changed = [codebook.assign(a) != codebook.assign(b) for a, b in zip(alone, together, strict=True)]
    bits = all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    print(
        f"\nwordweave float32, batched against one by one: {np.concatenate(changed).mean():.2%} other units, "
        f"{'equal to the last bit' if bits else 'last bits differ'}"
    )
    print(
        f"ratio: CPU time of the better transformers run over this one; units: {codebook.clusters} centroids drawn"
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"from the features themselves. Peak memory {peak:.1f} GiB.")


def one_long_recording(arguments: argparse.Namespace) -> None:
    """Speech again and again until it is that long, to units."""
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    import numpy as np
    import torch

    from units import kmeans
    from units.encode import encode_units
    from units.encoders import bundled_codebook, load_encoder

    torch.set_num_threads(arguments.threads)
    encoder, codebook = load_encoder("compact"), kmeans.load(bundled_codebook())
    some, kind = read_waveforms(8)
    encode_units(encoder, codebook, some)
    speech = np.concatenate(some)
    recording = np.resize(speech, int(arguments.long * 3600 * 16_000))
    before = peak_memory() * 2**20 / 1e6
    start = time.process_time()
    (units,) = encode_units(encoder, codebook, [recording])
    took = time.process_time() - start
    peak = peak_memory() * 2**20 / 1e6
    print(
        f"{kind} again and again, {arguments.long} h in one recording, {recording.nbytes / 1e6:.0f} MB of samples"
    )
    print(
        f"{arguments.threads} thread(s), {len(recording) / 16_000 / took:.0f} x real time, {len(units)} units"
    )
    print(f"peak memory {peak:.0f} MB, {before:.0f} MB before it was encoded")


def read_waveforms(count: int) -> tuple[list, str]:
    """Utterances spread over the recorded speech, or noise."""
    import numpy as np

    manifest = (
        Path(os.environ.get("WORDWEAVE_SPEECH", ROOT.parent / "shared" / "speech")) / "dev" / "manifest.jsonl"
    )
    if not manifest.exists():
        rng = np.random.default_rng(0)
        lengths = rng.uniform(2, 15, count) * 16_000
        return [rng.normal(size=int(length)).astype(np.float32) * 0.1 for length in lengths], "noise"
    import soundfile

    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows = sorted(rows, key=lambda row: row["id"])[:: max(1, len(rows) // count)][:count]
    return [
        soundfile.read(manifest.parent / row["audio"], dtype="float32")[0] for row in rows
    ], "recorded speech"


if __name__ == "__main__":
    main()
