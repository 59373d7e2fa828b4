"""k-means codebooks: fit one on feature frames, map frames to units, store it in a file that cannot carry code."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from units.encoders import BUNDLED, Encoder, bundled_codebook
from units.tensor_files import read_artifact, write_artifact

if TYPE_CHECKING:
    import torch

FORMAT = "wordweave codebook 1"
BLOCK = 1_024  # frames assigned at a time: their scores stay in the cache, half the time of 16,384
DEVICE_BLOCK = 8_192  # the same on a GPU: bounded memory
TILE = 65_536  # frames of one step of k-means on a GPU
RESTART_STEP = 15_486_557  # between the seeds of restarts
UNDECIDED = -1  # in place of a unit that a device cannot decide
SEEDINGS = ("afk-mc2", "k-means++", "random")
DEVICES = ("auto", "cpu", "gpu")
# settings of an encoder that change how it runs, not what a feature means
NOT_FEATURES = {"dtype", "chunking", "window_seconds", "context_seconds"}
TAPS = ("after-residual", "before-residual")
"""Where in a block features are taken: its output, the `hidden_states[layer]` of transformers, which is what every
encoder here gives; or what its feed-forward part computes, before the sum with the residual."""


@dataclass(eq=False)
class Codebook:
    """K centroids; a frame has unit k where centroid k is the nearest.

    `centroids` is (K, D) float32; `provenance` is a JSON-able dict of where they come from: `encoder` (its provenance,
    or None where unknown), seed, data hash, inertia, versions.
    """

    centroids: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        centroids = np.array(self.centroids, dtype=np.float32, order="C")  # a read-only copy
        if centroids.ndim != 2 or 0 in centroids.shape:
            raise ValueError(f"codebook: need centroids of shape (K, D), got {centroids.shape}")
        if not np.isfinite(centroids).all():
            raise ValueError("codebook: need finite centroids, got NaN or infinity")
        centroids.setflags(write=False)
        self.centroids = centroids

    @property
    def clusters(self) -> int:
        """K."""
        return self.centroids.shape[0]

    @property
    def dimension(self) -> int:
        """D."""
        return self.centroids.shape[1]

    @property
    def features(self) -> dict[str, Any]:
        """What was clustered: `tap` (of TAPS), `layer` (None: unknown), `normalisation` of waveforms and features."""
        encoder = self.provenance.get("encoder")
        encoder = encoder if isinstance(encoder, dict) else {}
        return {
            "tap": self.provenance.get("tap", TAPS[0]),
            "layer": encoder.get("layer"),
            "normalisation": {key: encoder[key] for key in ("normalize", "final_norm") if key in encoder},
        }

    @cached_property
    def hash(self) -> str:
        """SHA-256 of centroids and provenance."""
        digest = hashlib.sha256(json.dumps(self.provenance, sort_keys=True).encode())
        digest.update(str(self.centroids.shape).encode() + self.centroids.tobytes())
        return digest.hexdigest()

    def assign(self, features: np.ndarray) -> np.ndarray:
        """The nearest centroid of each frame, exactly: whatever the batch, the threads and the linear algebra library.

        Args:
            features: (F, D) floating point.

        Returns:
            (F,) int32 in [0, K); the first of centroids at equal distance.

        Raises:
            ValueError: wrong shape, or NaN or infinite features.

        >>> Codebook(np.array([[0.0, 0.0], [2.0, 0.0]])).assign(np.array([[0.9, 0.0], [1.0, 5.0], [1.1, 0.0]]))
        array([0, 0, 1], dtype=int32)
        """
        return self.nearest(features)[0]

    def nearest(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(F,) int32 units as from `assign`, and (F,) float64 squared distances."""
        features = check_features(features, self.dimension)
        units = np.zeros(len(features), np.int32)
        squares = np.zeros(len(features))
        for start in range(0, len(features), BLOCK):
            block = slice(start, start + BLOCK)
            units[block] = self._nearest(features[block])
            squares[block] = distances(features[block], self.centroids[units[block]])
        return units, squares

    @np.errstate(over="ignore", invalid="ignore")
    def _nearest(self, x: np.ndarray) -> np.ndarray:
        scores = self._half_squares - x @ self.centroids.T  # half of |x - c|^2 - |x|^2, in single precision
        best = scores.argmin(axis=1)
        # Rounding moves a score by less than `slack`; where two are closer than that, double precision decides.
        slack = self._slack(np.sqrt(np.einsum("fd,fd->f", x, x)))
        rows = np.arange(len(x))
        limit = scores[rows, best] + 2 * slack
        scores[rows, best] = np.inf
        # "not above" rather than "at most", so that it includes scores that overflowed
        doubtful = np.flatnonzero(~(scores.min(axis=1) > limit))
        scores[rows, best] = -np.inf
        for row in doubtful:
            candidates = np.flatnonzero(~(scores[row] > limit[row]))
            best[row] = candidates[distances(x[row], self.centroids[candidates]).argmin()]
        return best

    def assign_on_device(self, features: "torch.Tensor", *, tolerance: float = 0.0) -> "torch.Tensor":
        """The units of (F, D) features on their own device, without waiting for it.

        The two best centroids by single precision are compared again in double precision. A unit is `UNDECIDED` where
        that does not prove it: where a third centroid is as near within the rounding of single precision, where the two
        are equally near, or where the features are not finite. `decide` finds it on the host.

        Args:
            features: (F, D) floating point.
            tolerance: a unit that could change if its frame changed by this share of its length is undecided too.

        Returns:
            (F,) int32.
        """
        import torch

        x = features.float()
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise ValueError(f"features: need shape (F, {self.dimension}), got {tuple(x.shape)}")
        if x.device not in self._copies:
            arrays = (self.centroids, self._half_squares)
            self._copies[x.device] = [torch.from_numpy(np.array(array)).to(x.device) for array in arrays]
        centroids, halves = self._copies[x.device]
        blocks = x.split(DEVICE_BLOCK)
        return torch.cat([self._assign_block(block, centroids, halves, tolerance) for block in blocks])

    def _assign_block(
        self, x: "torch.Tensor", centroids: "torch.Tensor", halves: "torch.Tensor", tolerance: float
    ) -> "torch.Tensor":
        import torch

        lengths = x.norm(dim=1)
        scores, ids = torch.addmm(halves, x, centroids.T, alpha=-1).topk(
            min(3, self.clusters), dim=1, largest=False
        )
        units, sure = ids[:, 0], lengths < torch.inf
        if self.clusters > 1:
            first, second = centroids[ids[:, 0]].double(), centroids[ids[:, 1]].double()
            # half of the difference of the squared distances, above 0 where `first` is nearer
            gap = ((first - second) * (x.double() - (first + second) / 2)).sum(1)
            rounding = 1e-13 * self.dimension * self._reach * (lengths.double() + self._reach)
            # the gap changes by at most the change of the frame times the distance of the two centroids
            sure &= gap.abs() > rounding + tolerance * lengths.double() * (first - second).norm(dim=1)
            units = torch.where(gap >= 0, ids[:, 0], ids[:, 1])
        if self.clusters > 2:
            margin = 2 * self._slack(lengths) + tolerance * 2 * self._reach * lengths
            sure &= scores[:, 2] > scores[:, 0] + margin
        return torch.where(sure, units, UNDECIDED).int()

    def decide(self, features: "torch.Tensor", units: np.ndarray) -> np.ndarray:
        """(F,) units from `assign_on_device` on the host -> the same as `assign`; only undecided frames are copied."""
        rows = np.flatnonzero(units == UNDECIDED)
        if len(rows):
            units = units.copy()
            units[rows] = self.assign(features[rows].float().cpu().numpy())
        return units

    def _slack(self, lengths: Any) -> Any:
        """A bound on the rounding of a score in single precision, for frames of these lengths."""
        return (
            2 * np.finfo(np.float32).eps.item() * (self.dimension + 2) * self._reach * (lengths + self._reach)
        )

    @cached_property
    def _copies(self) -> dict[Any, list["torch.Tensor"]]:
        """Centroids and half their squares, by device."""
        return {}

    @cached_property
    def _half_squares(self) -> np.ndarray:
        return (np.einsum("kd,kd->k", *2 * [self.centroids.astype(np.float64)]) / 2).astype(np.float32)

    @cached_property
    def _reach(self) -> float:
        """Length of the longest centroid."""
        return float(np.linalg.norm(self.centroids.astype(np.float64), axis=1).max())

    def check(self, encoder: Encoder) -> None:
        """Refuse an encoder whose features this codebook was not fitted on.

        Raises:
            ValueError: names the first setting that differs. Half precision and chunking may differ.
        """
        check_encoder(self, encoder)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the provenance in its metadata; all of it or nothing appears under `path`."""
        arrays = {"centroids": np.array(self.centroids)}
        record = {"format": FORMAT, "provenance": self.provenance, "features": self.features}
        write_artifact(path, arrays, record)


def check_encoder(codebook: Any, encoder: Encoder) -> None:
    """Refuse an encoder that differs from the one in the codebook's provenance; names the setting."""
    fitted, given = codebook.provenance.get("encoder"), encoder.provenance
    if encoder.dimension != codebook.dimension:
        raise ValueError(
            f"codebook: fitted on {codebook.dimension} dimensions, the encoder has {encoder.dimension}"
            + bundled_hint(fitted)
        )
    if (tap := codebook.provenance.get("tap", TAPS[0])) != TAPS[0]:
        raise ValueError(
            f"codebook: fitted on features taken {tap}, encoders give them {TAPS[0]}; use one that was fitted on those"
        )
    if fitted is None:  # an imported codebook of unknown origin
        return
    keys = (fitted.keys() | given.keys()) - NOT_FEATURES
    for key in sorted(keys, key=lambda key: (key == "weights", key)):  # a hash is the least readable: last
        if fitted.get(key) != given.get(key):
            raise ValueError(
                f"codebook: fitted on an encoder with {key} {fitted.get(key)!r}, this one has {given.get(key)!r}"
                + bundled_hint(fitted)
            )


def bundled_hint(provenance: dict[str, Any] | None) -> str:
    """What to do where a codebook belongs to a bundled encoder, such as the one that had the name before."""
    for name in BUNDLED if provenance else ():
        bundled = load(bundled_codebook(encoder=name)).provenance["encoder"]
        if provenance and bundled["weights"] == provenance.get("weights"):
            return f'; it belongs to the bundled encoder "{name}": name that one'
    return ""


def load(path: str | Path) -> Codebook:
    """The codebook that `Codebook.save` wrote.

    Raises:
        ValueError: no such file, a half-written one, or a file of another kind; names it.
    """
    arrays, record = read_artifact(path, FORMAT, kind="codebook", command="wordweave fit units")
    if list(arrays) != ["centroids"]:
        raise ValueError(f"{path}: need one tensor 'centroids', got {list(arrays)}")
    try:
        return Codebook(arrays["centroids"], record["provenance"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def fit(
    features: np.ndarray,
    *,
    clusters: int = 501,
    seed: int = 0,
    iterations: int = 12,
    restarts: int = 1,
    seeding: str = "afk-mc2",
    device: str = "auto",
    encoder: Encoder | None = None,
) -> Codebook:
    """Cluster all feature frames by k-means: on a CPU with faiss, on a GPU with torch from the same seeding.

    The same features and seed give the same centroids on any number of threads. A cluster without frames at the end is
    moved to a frame far from its centroid, followed by further iterations.

    Args:
        features: (N, D) floating point; faiss's silent limit of 256 frames per cluster is lifted.
        clusters: K.
        seed: of the seeding.
        iterations: Lloyd's steps per start. (From 10 to 15 inertia falls by 0.4 % and time grows by a third, from 15 to
            25 by 0.3 % and 0.6, on 100,000 frames of recorded speech: `benchmarks/kmeans.py`.)
        restarts: starts, of which the one with the lowest inertia is kept.
        seeding: "k-means++" (D^2 sampling), "afk-mc2" (its Markov chain approximation, faster) or "random".
        device: "cpu", "gpu" (the last bits of centroids may differ), or "auto": a GPU where torch finds one.
        encoder: where the features come from; the codebook will refuse others.

    Returns:
        A codebook; its provenance holds `inertia`, the mean squared distance of a frame to its centroid, `dead`, the
        number of clusters without frames (0 unless there are fewer different frames than clusters), and `fitted_on`.

    Raises:
        ValueError: fewer frames than clusters, wrong shape, NaN, or no GPU where one is required.
    """
    import faiss  # not needed to use a codebook

    features = np.asarray(features)
    if features.ndim != 2:
        raise ValueError(f"features: need shape (N, D), got {features.shape}")
    features = check_features(features, features.shape[1])
    if clusters < 2:
        raise ValueError(f"kmeans.clusters: need at least 2, got {clusters}")
    if clusters > len(features):
        raise ValueError(
            f"kmeans.clusters: need at most the number of frames, {len(features)}, got {clusters}"
        )
    if not 0 <= seed < 2**31:
        raise ValueError(f"kmeans.seed: need 0 <= seed < 2**31, got {seed}")
    if iterations < 1 or restarts < 1:
        raise ValueError(f"kmeans: need iterations >= 1 and restarts >= 1, got {iterations} and {restarts}")
    if seeding not in SEEDINGS:
        raise ValueError(f"kmeans.seeding: need one of {list(SEEDINGS)}, got {seeding!r}")
    runs_on = fit_device(device)
    train = train_with_faiss if runs_on == "cpu" else partial(train_with_torch, device=runs_on)
    centroids = train(
        features, clusters, iterations=iterations, restarts=restarts, seed=seed, seeding=seeding
    )
    units, squares = Codebook(centroids).nearest(features)
    for _ in range(10):
        dead = np.flatnonzero(np.bincount(units, minlength=clusters) == 0)
        far = np.argsort(-squares, kind="stable")[: len(dead)]
        far = far[squares[far] > 0]
        if not len(far):
            break
        centroids[dead[: len(far)]] = features[far]
        centroids = train(
            features, clusters, iterations=3, restarts=1, seed=seed, seeding=seeding, start=centroids
        )
        units, squares = Codebook(centroids).nearest(features)
    provenance = {
        "encoder": None if encoder is None else encoder.provenance,
        "clusters": clusters,
        "seed": seed,
        "iterations": iterations,
        "restarts": restarts,
        "seeding": seeding,
        "frames": len(features),
        "data": hashlib.sha256(features.tobytes()).hexdigest(),
        "inertia": float(squares.mean()),
        "dead": int((np.bincount(units, minlength=clusters) == 0).sum()),
        "faiss": faiss.__version__,
        "fitted_on": "cpu" if runs_on == "cpu" else "gpu",
    }
    return Codebook(centroids, provenance)


def fit_device(device: str = "auto") -> str:
    """Where k-means runs, for torch: "cpu" or "cuda"."""
    import torch

    if device not in DEVICES:
        raise ValueError(f"kmeans.device: need one of {list(DEVICES)}, got {device!r}")
    if device == "gpu" and not torch.cuda.is_available():
        raise ValueError("kmeans.device: need a GPU that torch can use, found none; use 'cpu' or 'auto'")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def train_with_faiss(
    features: np.ndarray,
    clusters: int,
    *,
    iterations: int,
    restarts: int,
    seed: int,
    seeding: str,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """(K, D) centroids from faiss, from its own seeding or from given centroids."""
    import faiss

    method = {
        "k-means++": faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        "afk-mc2": faiss.ClusteringInitMethod_AFK_MC2,
        "random": faiss.ClusteringInitMethod_RANDOM,
    }[seeding]
    kmeans = faiss.Kmeans(
        features.shape[1],
        clusters,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        init_method=method,
        min_points_per_centroid=1,
        max_points_per_centroid=len(features),
    )
    kmeans.train(features, init_centroids=start)
    return np.array(kmeans.centroids)


def train_with_torch(
    features: np.ndarray,
    clusters: int,
    *,
    iterations: int,
    restarts: int,
    seed: int,
    seeding: str,
    start: np.ndarray | None = None,
    device: str,
) -> np.ndarray:
    """As `train_with_faiss`, with Lloyd's steps on a device; the seeding is that of faiss, with a seed for each start.

    Sums are products with a matrix of ones and zeros, which are the same in every run, as atomic additions are not.
    """
    import torch

    best, lowest = None, np.inf
    for restart in range(restarts):
        own = (seed + restart * RESTART_STEP) % 2**31
        first = start
        if first is None:
            first = train_with_faiss(features, clusters, iterations=0, restarts=1, seed=own, seeding=seeding)
        centroids = torch.from_numpy(np.array(first)).to(device)
        for step in range(iterations + 1):  # the last one only measures
            sums = torch.zeros(clusters, features.shape[1], dtype=torch.float64, device=device)
            counts = torch.zeros(clusters, dtype=torch.float64, device=device)
            inertia = torch.zeros((), dtype=torch.float64, device=device)
            for begin in range(0, len(features), TILE):
                tile = torch.from_numpy(features[begin : begin + TILE]).to(device)
                scores = torch.addmm(centroids.square().sum(1) / 2, tile, centroids.T, alpha=-1)
                lowest_scores, units = scores.min(dim=1)
                inertia += (2 * lowest_scores + tile.square().sum(1)).sum(dtype=torch.float64)
                members = torch.nn.functional.one_hot(units, clusters).to(tile.dtype)
                sums += members.T @ tile
                counts += members.sum(0)
            if step < iterations:  # a cluster without frames stays
                means = (sums / counts.clamp(min=1)[:, None]).float()
                centroids = torch.where(counts[:, None] > 0, means, centroids)
        if inertia.item() < lowest:
            best, lowest = centroids.cpu().numpy(), inertia.item()
    assert best is not None
    return best


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances in double precision along the last axis."""
    return np.square(a.astype(np.float64) - b).sum(axis=-1)


def check_features(features: np.ndarray, dimension: int) -> np.ndarray:
    """The features as contiguous float32, or ValueError."""
    features = np.ascontiguousarray(features, dtype=np.float32)
    if features.ndim != 2 or features.shape[1] != dimension:
        raise ValueError(f"features: need shape (F, {dimension}), got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features: need finite numbers, got NaN or infinity")
    return features
