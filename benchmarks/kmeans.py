"""k-means on 100,000 real frames against scikit-learn's MiniBatchKMeans with fairseq's settings, in one run.

    python -m benchmarks.kmeans [--frames 100000] [--clusters 501] [--skip-sklearn]

Frames are 39 MFCC at 100 Hz of the recorded speech where WORDWEAVE_SPEECH says; without it, of noise. CPU time is
compared. fairseq's settings but for `n_init`: 1 instead of 20, which takes 20 times as long.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--clusters", type=int, default=501)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip-sklearn", action="store_true")
    arguments = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)

    import faiss
    import numpy as np

    from units.kmeans import Codebook, fit

    features, kind = read_frames(arguments.frames)
    print(
        f"{len(features)} frames x {features.shape[1]} of {kind}, {arguments.clusters} clusters, "
        f"{arguments.threads} thread(s), load {os.getloadavg()[0]:.1f}\n"
    )

    def inertia(centroids: np.ndarray) -> float:
        return float(Codebook(centroids).nearest(features)[1].mean())

    def sklearn_fairseq() -> np.ndarray:
        from sklearn.cluster import MiniBatchKMeans

        settings = {
            "init": "k-means++",
            "max_iter": 100,
            "batch_size": 10_000,
            "tol": 0.0,
            "max_no_improvement": 100,
        }
        settings |= {"n_init": 1, "reassignment_ratio": 0.0, "compute_labels": False, "random_state": 0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return MiniBatchKMeans(arguments.clusters, **settings).fit(features).cluster_centers_

    def faiss_default() -> np.ndarray:
        kmeans = faiss.Kmeans(features.shape[1], arguments.clusters, seed=0, verbose=False)
        kmeans.train(features)
        return kmeans.centroids

    runs = {} if arguments.skip_sklearn else {"sklearn MiniBatchKMeans": sklearn_fairseq}
    runs["faiss as it comes"] = faiss_default
    runs["wordweave as it comes"] = lambda: fit(features, clusters=arguments.clusters).centroids
    for seeding in ("afk-mc2", "k-means++", "random"):
        for iterations in (10, 15, 25) if seeding != "random" else (15,):
            runs[f"wordweave {seeding}, {iterations} iterations"] = lambda s=seeding, n=iterations: (
                fit(features, clusters=arguments.clusters, seeding=s, iterations=n).centroids
            )
    print(f"{'':38}{'CPU s':>8}{'ratio':>8}{'inertia':>11}{'ratio':>8}{'dead':>6}")
    first: tuple[float, float] | None = None
    for name, run in runs.items():
        start = time.process_time()
        centroids = run()
        seconds = time.process_time() - start
        value = inertia(centroids)
        first = first or (seconds, value)
        dead = arguments.clusters - len(np.unique(Codebook(centroids).assign(features)))
        print(f"{name:38}{seconds:8.1f}{seconds / first[0]:8.3f}{value:11.4f}{value / first[1]:8.4f}{dead:6}")
    print("\nratios: to the first row; inertia: mean squared distance, double precision, all frames")


def read_frames(count: int) -> tuple:
    """(count, 39) MFCC frames of recorded speech, or of noise."""
    import numpy as np

    from units.encoders import load_encoder

    folder = Path(os.environ.get("WORDWEAVE_SPEECH", ROOT.parent / "shared" / "speech"))
    encoder, frames, total = load_encoder("mfcc-100hz"), [], 0
    manifests = [folder / part / "manifest.jsonl" for part in ("unlabelled", "dev")]
    if not manifests[0].exists():
        rng = np.random.default_rng(0)
        noise = [rng.normal(size=160_000).astype(np.float32) for _ in range(-(-count // 998))]
        return np.concatenate(encoder.encode(noise))[:count], "noise"
    import soundfile

    for manifest in manifests:
        for line in manifest.read_text().splitlines():
            waveform = soundfile.read(manifest.parent / json.loads(line)["audio"], dtype="float32")[0]
            frames.append(encoder.encode([waveform])[0])
            total += len(frames[-1])
            if total >= count:
                break
    return np.concatenate(frames)[:count], "recorded speech"


if __name__ == "__main__":
    main()
