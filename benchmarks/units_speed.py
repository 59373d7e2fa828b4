"""Throughput of unit encoding on real utterance lengths, against plain transformers, in one run.

    python -m benchmarks.units_speed [--utterances 40] [--threads 1] [--repeats 2]
    python -m benchmarks.units_speed --device cuda [--minutes 60]
    python -m benchmarks.units_speed --long 3

HuBERT-base with random weights (12 blocks of 768; speed does not depend on their values). bfloat16 is run where the
device computes in it. On a CPU, CPU time is compared, not wall time, so that a busy machine disturbs less; each figure
is the best of `--repeats` interleaved rounds. The recorded speech is looked for where WORDWEAVE_SPEECH says; without
it, noise of typical lengths is used.

On a GPU wall time is compared, of FLAC files to units by `EncodeUnits`, decoding included, against the bare
transformers model that gets batches of equal length which lie on the device already; hours of audio per hour are said.

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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=60.0, help="of audio, on a GPU")
    parser.add_argument("--long", type=float, help="hours of one recording for the bundled encoder")
    arguments = parser.parse_args()
    if arguments.long:
        one_long_recording(arguments)
        return
    if arguments.device != "cpu":
        on_a_gpu(arguments)
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
    before = peak_megabytes()
    start = time.process_time()
    (units,) = encode_units(encoder, codebook, [recording])
    took = time.process_time() - start
    peak = peak_megabytes()
    print(
        f"{kind} again and again, {arguments.long} h in one recording, {recording.nbytes / 1e6:.0f} MB of samples"
    )
    print(
        f"{arguments.threads} thread(s), {len(recording) / 16_000 / took:.0f} x real time, {len(units)} units"
    )
    print(f"peak memory {peak:.0f} MB, {before:.0f} MB before it was encoded")


def peak_megabytes() -> float:
    """The most memory this process ever held."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e6


def on_a_gpu(arguments: argparse.Namespace) -> None:
    """Files to units on a GPU, against the bare model on batches of equal length."""
    import numpy as np
    import pyarrow as pa
    import soundfile
    import torch
    from transformers import HubertConfig, HubertModel

    from corpus.prefetch import prefetch
    from pipelines.steps.audio import AudioWorker, decode_batch
    from pipelines.steps.units import EncodeUnits
    from units.encoders import load_encoder
    from units.kmeans import Codebook

    device = torch.device(arguments.device)
    seconds, per_file = 10, int(arguments.minutes * 6)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        HubertModel(HubertConfig()).save_pretrained(folder / "model")
        rows = []
        for i in range(per_file):
            noise = rng.normal(size=seconds * 16_000) * 0.1
            soundfile.write(folder / f"{i}.flac", noise, 16_000, subtype="PCM_16")
            result = {
                "id": f"u{i}",
                "audio": str(folder / f"{i}.flac"),
                "frames": len(noise),
                "sample_rate": 16_000,
            }
            rows.append(row_of_manifest(result))
        batches = [pa.RecordBatch.from_pylist(rows[start : start + 30]) for start in range(0, per_file, 30)]
        print(
            f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {per_file * seconds / 60:.0f} min"
        )
        print(f"{'':34}{'hours per hour':>16}{'of bare':>10}")
        for dtype in ("float32", "float16", "bfloat16"):
            kind = getattr(torch, dtype)
            model = HubertModel.from_pretrained(folder / "model").eval().to(device, kind)
            bare = torch.randn(arguments.batch * 4, seconds * 16_000, device=device, dtype=kind) * 0.1
            count = max(1, per_file // len(bare))

            @torch.inference_mode()
            def plain(model=model, bare=bare, count=count) -> int:
                for _ in range(count):
                    model(bare)
                return len(bare) * count

            encoder = load_encoder(folder / "model", device=arguments.device, dtype=dtype)
            codebook = Codebook(rng.normal(size=(arguments.clusters, encoder.dimension)))
            codebook.save(folder / "units.safetensors")
            stage = EncodeUnits(
                str(folder / "model"),
                None,
                dtype,
                arguments.device,
                "",
                str(folder / "units.safetensors"),
                "",
            )
            worker = stage.open()

            def whole(worker: AudioWorker = worker) -> int:
                threads = len(os.sched_getaffinity(0))
                decoded = prefetch((batch, decode_batch(batch, threads)) for batch in batches)
                return sum(worker.process(batch, rows).num_rows for batch, rows in decoded)

            rates = {}
            for name, run in (
                (f"transformers, bare, {dtype}", plain),
                (f"wordweave, files to units, {dtype}", whole),
            ):
                run()  # kernels are chosen, and compiled
                torch.cuda.synchronize(device)
                start = time.perf_counter()
                encoded = run()
                torch.cuda.synchronize(device)
                rates[name] = encoded * seconds / (time.perf_counter() - start)
                print(f"{name:34}{rates[name]:16.0f}{rates[name] / next(iter(rates.values())):10.2f}")


def row_of_manifest(result: dict) -> dict:
    """A manifest row with every column there is."""
    from corpus.records import Utterance

    names = dict.fromkeys(Utterance.__dataclass_fields__)
    return {**names, "first_frame": 0, **result, "samples": result["frames"], "reject": None, "detail": None}


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
