"""Third-party codebooks, read without running code, unless the caller trusts the file."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch

from units import kmeans
from units.encoders import Encoder
from units.kmeans import Codebook, check_encoder, check_features
from units.tensor_files import hash_file, load_weights_only, read_artifact, write_artifact

FORMAT = "wordweave linear quantizer 1"
MAX_ROLLS = 10_000  # of the reference
SLOPE = 0.01  # of torch's LeakyReLU


@dataclass(frozen=True)
class LinearQuantizer:
    """A small network instead of centroids, as in Spirit LM's release: its best-scoring label is the unit.

    The last label is a blank, as in CTC. A blank frame gets the unit of the frame before it, the first frame that of
    the last one, repeated until no blank is left; blanks remain only if all frames are blank.

    `matrices` and `biases` are those of the linear layers, (out, in) and (out,) float32, with leaky ReLU in between.

    Source: SPEC 1 and 11, from the released code of Spirit LM.
    """

    matrices: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = [matrix.shape for matrix in self.matrices]
        fits = all(before[0] == after[1] for before, after in pairwise(shapes))
        if (
            not shapes
            or not fits
            or [bias.shape for bias in self.biases] != [(shape[0],) for shape in shapes]
        ):
            raise ValueError(f"quantizer: need linear layers that follow each other, got {shapes}")

    @property
    def clusters(self) -> int:
        """Labels, blank included."""
        return len(self.biases[-1])

    @property
    def dimension(self) -> int:
        """D."""
        return self.matrices[0].shape[1]

    @cached_property
    def hash(self) -> str:
        """SHA-256 of weights and provenance."""
        digest = hashlib.sha256(json.dumps(self.provenance, sort_keys=True).encode())
        for array in self.matrices + self.biases:
            digest.update(str(array.shape).encode() + array.astype("<f4").tobytes())
        return digest.hexdigest()

    def assign(self, features: np.ndarray) -> np.ndarray:
        """(F, D) floating point, the frames of one recording -> (F,) int32 units.

        Raises:
            ValueError: wrong shape, or NaN or infinite features.
        """
        x = check_features(features, self.dimension).astype(
            np.float64
        )  # so that a near tie does not depend on the batch
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = (np.where(x > 0, x, SLOPE * x) if i else x) @ matrix.T.astype(np.float64) + bias
        return fill_blanks(x.argmax(axis=1).astype(np.int32), blank=self.clusters - 1)

    def check(self, encoder: Encoder) -> None:
        """Refuse an encoder of other features, as `Codebook.check` does."""
        check_encoder(self, encoder)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the provenance in its metadata; all of it or nothing appears under `path`."""
        arrays = {f"matrix.{i}": matrix for i, matrix in enumerate(self.matrices)}
        arrays |= {f"bias.{i}": bias for i, bias in enumerate(self.biases)}
        write_artifact(path, arrays, {"format": FORMAT, "provenance": self.provenance})


def fill_blanks(units: np.ndarray, *, blank: int) -> np.ndarray:
    """Give each blank frame the unit before it; blanks at the start get the last unit.

    >>> fill_blanks(np.array([9, 9, 3, 9, 4, 9, 9]), blank=9)
    array([4, 4, 3, 3, 4, 4, 4])
    >>> fill_blanks(np.array([9, 9]), blank=9)
    array([9, 9])
    """
    units = units.copy()
    for _ in range(MAX_ROLLS):
        blanks = units == blank
        if not blanks.any() or blanks.all():
            break
        units[blanks] = np.roll(units, 1)[blanks]
    return units


def load_codebook(
    path: str | Path, *, encoder: Encoder | None = None, trust_pickle: bool = False
) -> Codebook | LinearQuantizer:
    """A codebook from a file of any known kind.

    Args:
        path: our own `.safetensors`; centroids (K, D) as `.npy`; or saved by torch: Spirit LM's linear quantizer
            {`model_cfg`, `model_weight`} or centroids {`cluster_centers`, `n_clusters`}; or, with `trust_pickle`, a
            scikit-learn k-means saved by joblib.
        encoder: whose features it quantizes, if the file does not state it; other encoders will then be refused.
        trust_pickle: accept a file that can run any code while it is read.

    Raises:
        ValueError: broken or of no known kind, or a pickle without `trust_pickle`; names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such codebook")
    if path.suffix == ".safetensors":
        codebook = load_safetensors(path)
    else:
        try:
            codebook = read_npy(path) if path.suffix == ".npy" else read_saved(path, trust_pickle)
        except ValueError as error:
            message = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
            raise ValueError(message) from error
        origin = {"encoder": None, "imported": path.name, "sha256": hash_file(path)}
        codebook = replace(codebook, provenance=origin)
    if encoder is not None:
        try:
            codebook.check(encoder)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        codebook = replace(codebook, provenance=codebook.provenance | {"encoder": encoder.provenance})
    return codebook


def load_safetensors(path: Path) -> Codebook | LinearQuantizer:
    """A codebook in one of our own files."""
    arrays, record = read_artifact(path, kind="codebook", command="wordweave fit units")
    if record.get("format") != FORMAT:
        return kmeans.load(path)
    layers = range(len(arrays) // 2)
    try:
        matrices, biases = (tuple(arrays[f"{part}.{i}"] for i in layers) for part in ("matrix", "bias"))
        return LinearQuantizer(matrices, biases, record["provenance"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: need matrices and biases of linear layers, got: {error}") from error


def read_npy(path: Path) -> Codebook:
    """Centroids as a plain array."""
    try:
        return Codebook(np.load(path, allow_pickle=False))
    except (OSError, EOFError, TypeError, SyntaxError, TokenError, MemoryError) as error:
        raise ValueError(f"need a whole array of centroids, got: {error}") from error


def read_saved(path: Path, trust_pickle: bool) -> Codebook | LinearQuantizer:
    """A file saved by torch, or by joblib if it is trusted."""
    try:
        with torch.serialization.safe_globals(numpy_globals()):
            content = load_weights_only(path)
    except ValueError as error:
        if not trust_pickle:
            raise ValueError(
                f"{error}; a pickle, as of scikit-learn, can run any code while it is read: "
                "set trust_pickle=True (`--trust-pickle`) if you trust it"
            ) from error
        import joblib  # comes with scikit-learn, which such a file needs

        content = {"cluster_centers": joblib.load(path).cluster_centers_}
    match content:
        case {"model_weight": dict(weights)}:
            numbers = [name.split(".")[-2:-1] for name in weights if name.endswith(".weight")]
            if not numbers or not all(number and number[0].isdecimal() for number in numbers):
                raise ValueError(
                    "model_weight: need layers named by number, as 0.weight, got " + first_names(weights)
                )
            names = sorted({int(number[0]) for number in numbers})
            plain = {name.split(".", name.count(".") - 1)[-1]: tensor for name, tensor in weights.items()}
            matrices = tuple(plain[f"{i}.weight"].float().numpy() for i in names)
            return LinearQuantizer(matrices, tuple(plain[f"{i}.bias"].float().numpy() for i in names))
        case {"cluster_centers": centres}:
            codebook = Codebook(np.asarray(centres))
            if int(content.get("n_clusters", codebook.clusters)) != codebook.clusters:
                raise ValueError(
                    f"n_clusters: need the number of centroids, {codebook.clusters}, got {content['n_clusters']}"
                )
            return codebook
    raise ValueError("need model_weight of a linear quantizer or cluster_centers, got neither")


def first_names(weights: dict) -> str:
    """The first names."""
    return str([str(name) for name in weights][:3])


def numpy_globals() -> list[Callable | tuple[Callable, str]]:
    """Classes and functions in a pickled array of plain numbers; none of them runs code of the file."""
    from numpy._core import multiarray

    dtypes: list[Callable | tuple[Callable, str]] = [
        type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8")
    ]
    names = [
        (getattr(multiarray, part), f"numpy.core.multiarray.{part}") for part in ("_reconstruct", "scalar")
    ]
    return [np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar, *names, *dtypes]
