"""k-means codebooks: fit one on feature frames, map frames to units, keep it in a file that cannot carry code."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from units.encoders import Encoder
from units.tensor_files import read_artifact, write_artifact

if TYPE_CHECKING:
    import torch

FORMAT = "wordweave codebook 1"
BLOCK = 1_024  # frames assigned at a time: their scores stay in the cache, half the time of 16,384
DEVICE_BLOCK = 65_536  # the same on a GPU: bounded memory
SEEDINGS = ("afk-mc2", "k-means++", "random")
DEVICES = ("auto", "cpu", "gpu")
NOT_FEATURES = {
    "dtype",
    "chunking",
    "window_seconds",
    "context_seconds",
}  # how it ran, not what a feature means


@dataclass(frozen=True)
class Codebook:
    """K centroids; unit k of a frame says that centroid k is nearest.

    `centroids` is (K, D) float32; `provenance` is a JSON-able dict that says where they come from: `encoder` (its
    provenance, or None where unknown), seed, data hash, inertia, versions.
    """

    centroids: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        centroids = np.array(
            self.centroids, dtype=np.float32, order="C"
        )  # a copy that nobody else can write to
        if centroids.ndim != 2 or 0 in centroids.shape:
            raise ValueError(f"codebook: need centroids of shape (K, D), got {centroids.shape}")
        if not np.isfinite(centroids).all():
            raise ValueError("codebook: need finite centroids, got NaN or infinity")
        centroids.setflags(write=False)
        object.__setattr__(self, "centroids", centroids)

    @property
    def clusters(self) -> int:
        """K."""
        return self.centroids.shape[0]

    @property
    def dimension(self) -> int:
        """D."""
        return self.centroids.shape[1]

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
            (F,) int32 in [0, K); of centroids at equal distance the first.

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
        # "not above" rather than "at most": a score that overflowed is doubtful too
        doubtful = np.flatnonzero(~(scores.min(axis=1) > limit))
        scores[rows, best] = -np.inf
        for row in doubtful:
            candidates = np.flatnonzero(~(scores[row] > limit[row]))
            best[row] = candidates[distances(x[row], self.centroids[candidates]).argmin()]
        return best

    def assign_on_device(self, features: "torch.Tensor", *, moved: float = 0.0) -> np.ndarray:
        """The same as `assign`, for (F, D) features on whatever device: only doubtful frames travel to the host.

        Args:
            features: (F, D) floating point.
            moved: a unit that could change if its frame were moved by this share of its length comes as -1 - unit.
        """
        import torch

        x = features.float()
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise ValueError(f"features: need shape (F, {self.dimension}), got {tuple(x.shape)}")
        if x.device not in self._copies:
            arrays = (self.centroids, self._half_squares)
            self._copies[x.device] = [torch.from_numpy(np.array(array)).to(x.device) for array in arrays]
        centroids, halves = self._copies[x.device]
        units = np.zeros(len(x), np.int32)
        for start in range(0, len(x), DEVICE_BLOCK):
            block = x[start : start + DEVICE_BLOCK]
            scores = torch.addmm(halves, block, centroids.T, alpha=-1)
            two, ids = scores.topk(min(2, self.clusters), dim=1, largest=False)
            lengths = block.norm(dim=1)
            slack = self._slack(lengths)
            doubtful = ~(two[:, -1] > two[:, 0] + 2 * slack)  # not finite: doubtful, and refused below
            units[start : start + DEVICE_BLOCK] = ids[:, 0].cpu().numpy()
            rows = doubtful.nonzero().flatten().cpu().numpy()
            units[start + rows] = self.assign(block[doubtful].cpu().numpy())
            if moved:  # half of |x - c|^2 moves by at most the way times the distance of two centroids
                near = ~(two[:, -1] > two[:, 0] + 2 * slack + moved * 2 * self._reach * lengths)
                rows = start + near.nonzero().flatten().cpu().numpy()
                units[rows] = -1 - units[rows]
        return units

    def _slack(self, lengths: Any) -> Any:
        """More than rounding moves a score in single precision, for frames of such lengths."""
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
        """Write a safetensors file whose metadata holds the provenance; all of it or nothing appears under `path`."""
        arrays = {"centroids": np.array(self.centroids)}
        write_artifact(path, arrays, {"format": FORMAT, "provenance": self.provenance})


def check_encoder(codebook: Any, encoder: Encoder) -> None:
    """Refuse an encoder that differs from the one in the codebook's provenance; names the setting."""
    if encoder.dimension != codebook.dimension:
        raise ValueError(
            f"codebook: fitted on {codebook.dimension} dimensions, the encoder has {encoder.dimension}"
        )
    ours, theirs = codebook.provenance.get("encoder"), encoder.provenance
    if ours is None:  # an imported codebook that does not say
        return
    keys = (ours.keys() | theirs.keys()) - NOT_FEATURES
    for key in sorted(keys, key=lambda key: (key == "weights", key)):  # a hash tells a reader least: last
        if ours.get(key) != theirs.get(key):
            mine, other = ours.get(key), theirs.get(key)
            raise ValueError(f"codebook: fitted on an encoder with {key} {mine!r}, this one has {other!r}")


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
    """Cluster feature frames by k-means (faiss), on all of them.

    The same features and seed give the same centroids on any number of threads. A cluster that no frame belongs to at
    the end is set on a frame far from its centroid, and iterations go on.

    Args:
        features: (N, D) floating point; faiss's silent limit of 256 frames per cluster is lifted.
        clusters: K.
        seed: of the seeding.
        iterations: Lloyd's steps per start. (From 10 to 15 inertia falls by 0.4 % and time grows by a third, from 15 to
            25 by 0.3 % and 0.6, on 100,000 frames of recorded speech: `benchmarks/kmeans.py`.)
        restarts: starts, of which the one with the lowest inertia is kept.
        seeding: "k-means++" (D^2 sampling), "afk-mc2" (its Markov chain approximation, faster) or "random".
        device: "cpu", "gpu" (another device may move the last bits of a centroid), or "auto": as `fits_on` says.
        encoder: where the features come from; the codebook will refuse others.

    Returns:
        A codebook; its provenance tells `inertia`, the mean squared distance of a frame to its centroid, and
        `dead`, the clusters without frames (0 unless there are fewer different frames than clusters).

    Raises:
        ValueError: fewer frames than clusters, wrong shape, NaN.
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
    if device not in DEVICES:
        raise ValueError(f"kmeans.device: need one of {list(DEVICES)}, got {device!r}")
    if device == "gpu" and fits_on(faiss) == "cpu":
        raise ValueError(
            "kmeans.device: need a GPU build of faiss and a GPU it sees, got neither; "
            "install the extra `gpu`, or take 'cpu'"
        )
    device = fits_on(faiss) if device == "auto" else device
    method = {
        "k-means++": faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        "afk-mc2": faiss.ClusteringInitMethod_AFK_MC2,
        "random": faiss.ClusteringInitMethod_RANDOM,
    }[seeding]
    settings = {
        "niter": iterations,
        "nredo": restarts,
        "seed": seed,
        "init_method": method,
        "min_points_per_centroid": 1,
        "max_points_per_centroid": len(features),
        "gpu": device == "gpu",
    }
    centroids = train(features, clusters, settings)
    units, squares = Codebook(centroids).nearest(features)
    for _ in range(10):
        dead = np.flatnonzero(np.bincount(units, minlength=clusters) == 0)
        far = np.argsort(-squares, kind="stable")[: len(dead)]
        far = far[squares[far] > 0]
        if not len(far):
            break
        centroids[dead[: len(far)]] = features[far]
        centroids = train(features, clusters, settings | {"niter": 3, "nredo": 1}, centroids)
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
        "fitted_on": device,
    }
    return Codebook(centroids, provenance)


def fits_on(faiss: Any) -> str:
    """Where this faiss fits: "gpu" if it was built for GPUs and sees one, else "cpu".

    >>> import faiss
    >>> fits_on(faiss) in ("cpu", "gpu")
    True
    """
    try:
        # the CPU build has `get_num_gpus` too, and says 0
        found = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    except RuntimeError:  # no driver, or one too old for this build
        found = 0
    return "gpu" if found else "cpu"


def train(features: np.ndarray, clusters: int, settings: dict, start: np.ndarray | None = None) -> np.ndarray:
    """(K, D) centroids from faiss, from its own seeding or from given centroids."""
    import faiss

    kmeans = faiss.Kmeans(features.shape[1], clusters, **settings)
    kmeans.train(features, init_centroids=start)
    return np.array(kmeans.centroids)


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
