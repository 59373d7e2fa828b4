import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from units import kmeans
from units.encoders import load_encoder
from units.kmeans import Codebook, fit
from units.quantizers import load_codebook

ROOT = Path(__file__).resolve().parents[2]


def blobs(seed=0, frames=600, clusters=12, dimension=5):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dimension)) * 20
    labels = np.arange(frames) % clusters
    return (centres[labels] + rng.normal(size=(frames, dimension))).astype(np.float32), labels


def brute_force(features, centroids):
    squares = ((features[:, None].astype(np.float64) - centroids[None].astype(np.float64)) ** 2).sum(axis=2)
    return squares.argmin(axis=1)


def test_well_separated_blobs_become_one_unit_each():
    features, labels = blobs()
    codebook = fit(features, clusters=12, restarts=20)
    pairs = set(zip(labels.tolist(), codebook.assign(features).tolist()))
    assert len(pairs) == 12
    assert codebook.provenance["dead"] == 0


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 30), st.sampled_from([0, 1e-4, 1, 1e4]))
def test_the_nearest_centroid_is_the_one_double_precision_finds(seed, clusters, dimension, offset):
    rng = np.random.default_rng(seed)
    centroids = (rng.integers(-2, 3, (clusters, dimension)) + offset).astype(np.float32)  # a grid: many ties
    features = (rng.integers(-4, 5, (50, dimension)) / 2 + offset).astype(np.float32)
    codebook = Codebook(centroids)
    assert np.array_equal(codebook.assign(features), brute_force(features, centroids))
    assert np.array_equal(
        codebook.assign_on_device(torch.from_numpy(features)), brute_force(features, centroids)
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(0, 300), st.integers(1, 300))
def test_the_unit_of_a_frame_does_not_depend_on_its_neighbours(seed, start, length):
    rng = np.random.default_rng(seed)
    codebook = Codebook(rng.normal(size=(50, 64)))
    features = rng.normal(size=(500, 64)).astype(np.float32)
    part = slice(start, start + length)
    assert np.array_equal(codebook.assign(features[part]), codebook.assign(features)[part])


def test_no_frames_give_no_units():
    units = Codebook(np.eye(3)).assign(np.zeros((0, 3), np.float32))
    assert units.shape == (0,)
    assert units.dtype == np.int32


def test_frames_too_large_for_single_precision_scores_still_find_the_nearest():
    codebook = Codebook(np.array([[0.0], [1e30], [3e30]]))
    features = np.array([[2.5e30], [4e29]], np.float32)
    assert codebook.assign(features).tolist() == [2, 0]
    assert codebook.assign_on_device(torch.from_numpy(features)).tolist() == [2, 0]


def test_features_that_cannot_be_assigned_are_refused_with_the_rule():
    codebook = Codebook(np.eye(3))
    with pytest.raises(ValueError, match=r"features: need shape \(F, 3\), got \(4, 2\)"):
        codebook.assign(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="features: need finite numbers"):
        codebook.assign(np.array([[0, np.nan, 0]]))
    with pytest.raises(ValueError, match="features: need finite numbers"):
        codebook.assign_on_device(torch.tensor([[0, 1, 0], [0, np.nan, 0]]))
    with pytest.raises(ValueError, match=r"features: need shape \(F, 3\), got \(4, 2\)"):
        codebook.assign_on_device(torch.zeros(4, 2))


@pytest.mark.parametrize("seeding", ["k-means++", "afk-mc2", "random"])
def test_fitting_twice_gives_the_same_codebook_and_another_seed_another(seeding):
    features, _ = blobs(clusters=30)
    first, again, other = (fit(features, clusters=20, seed=seed, seeding=seeding) for seed in (1, 1, 2))
    assert first.hash == again.hash
    assert not np.array_equal(first.centroids, other.centroids)


def test_the_number_of_threads_does_not_change_a_codebook():
    program = (
        "import numpy as np; from units.kmeans import fit;"
        "x = np.random.default_rng(0).normal(size=(4000, 96)).astype(np.float32);"
        "print(fit(x, clusters=64, iterations=5).hash)"
    )
    hashes = set()
    for threads in ("1", "2", "3"):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(done.stdout)
    assert len(hashes) == 1


def test_inertia_is_the_mean_squared_distance_over_all_frames():
    features, _ = blobs()
    codebook = fit(features, clusters=5)
    squares = ((features - codebook.centroids[codebook.assign(features)]) ** 2).sum(axis=1)
    assert codebook.provenance["inertia"] == pytest.approx(squares.mean(), rel=1e-5)


@pytest.mark.parametrize("seeding", kmeans.SEEDINGS)
@pytest.mark.parametrize("iterations", [1, 5])
def test_every_cluster_has_frames_when_there_are_enough_different_ones(seeding, iterations):
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(2000, 3)) * 1e-4, rng.normal(size=(60, 3)) * 100])
    codebook = fit(features, clusters=50, seeding=seeding, iterations=iterations)
    assert set(codebook.assign(features).tolist()) == set(range(50))


def test_a_codebook_of_fewer_different_frames_than_clusters_says_so():
    features = np.repeat(np.random.default_rng(0).normal(size=(10, 4)), 20, axis=0)
    assert fit(features, clusters=16).provenance["dead"] == 6


class GpuFaiss:
    """What `fits_on` asks of a GPU build of faiss."""

    StandardGpuResources = object

    def __init__(self, gpus):
        self.gpus = gpus

    def get_num_gpus(self):
        if self.gpus is None:
            raise RuntimeError("CUDA error 35 CUDA driver version is insufficient for CUDA runtime version")
        return self.gpus


def test_a_gpu_is_taken_only_by_a_gpu_build_that_sees_one():
    assert [kmeans.fits_on(GpuFaiss(gpus)) for gpus in (2, 1, 0, None)] == ["gpu", "gpu", "cpu", "cpu"]

    class CpuFaiss:
        def get_num_gpus(self):  # of GPUs that others could use
            return 1

    assert kmeans.fits_on(CpuFaiss()) == "cpu"


def test_a_fit_on_a_gpu_asks_faiss_for_it_and_says_so(monkeypatch):
    import faiss

    features, _ = blobs()
    assert fit(features, clusters=5, device="cpu").provenance["fitted_on"] == "cpu"
    asked = []
    plain = faiss.Kmeans

    def kmeans_with_gpu(*sizes, gpu, **settings):
        asked.append(gpu)
        return plain(*sizes, **settings)

    monkeypatch.setattr(faiss, "Kmeans", kmeans_with_gpu)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    assert fit(features, clusters=5).provenance["fitted_on"] == "gpu"
    assert fit(features, clusters=5, device="cpu").provenance["fitted_on"] == "cpu"
    assert asked == [True, False]
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(ValueError, match=r"kmeans.device: need a GPU build of faiss and a GPU it sees"):
        fit(features, clusters=5, device="gpu")
    with pytest.raises(ValueError, match=r"kmeans.device: need one of \['auto', 'cpu', 'gpu'\], got 'tpu'"):
        fit(features, clusters=5, device="tpu")


def test_impossible_fits_are_refused_with_the_rule():
    features, _ = blobs(frames=24)
    with pytest.raises(ValueError, match=r"kmeans.clusters: need at most the number of frames, 24, got 501"):
        fit(features)
    with pytest.raises(ValueError, match=r"kmeans.clusters: need at least 2, got 1"):
        fit(features, clusters=1)
    with pytest.raises(ValueError, match=r"kmeans.seeding: need one of \[.*\], got 'best'"):
        fit(features, clusters=2, seeding="best")
    with pytest.raises(ValueError, match="features: need finite numbers"):
        fit(np.full((30, 2), np.inf), clusters=2)
    with pytest.raises(ValueError, match=r"kmeans.seed: need 0 <= seed < 2\*\*31, got -1"):
        fit(features, clusters=2, seed=-1)


def test_a_saved_codebook_comes_back_whole_and_with_the_same_bytes(tmp_path):
    features, _ = blobs(dimension=39)
    codebook = fit(features, clusters=7, encoder=load_encoder("mfcc"))
    codebook.save(tmp_path / "units.safetensors")
    back = kmeans.load(tmp_path / "units.safetensors")
    assert np.array_equal(back.centroids, codebook.centroids)
    assert back.provenance == codebook.provenance
    assert back.hash == codebook.hash
    back.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "units.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.safetensors", "units.safetensors"]


def test_files_that_are_no_codebook_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"gone.safetensors: no such codebook"):
        kmeans.load(tmp_path / "gone.safetensors")
    Codebook(np.eye(40)).save(tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    for length in (0, 7, 50, len(content) - 1):
        (tmp_path / "half.safetensors").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"half.safetensors: need a whole codebook"):
            kmeans.load(tmp_path / "half.safetensors")
    for metadata, message in (
        ("{", "need JSON in its metadata"),
        ("[1]", "need a provenance in its metadata"),
        (json.dumps({"format": kmeans.FORMAT}), "need a provenance in its metadata"),
    ):
        said = {"wordweave": metadata}
        save_file({"centroids": np.eye(3, dtype=np.float32)}, tmp_path / "odd.safetensors", said)
        for load in (kmeans.load, load_codebook):
            with pytest.raises(ValueError, match=rf"odd.safetensors: {message}"):
                load(tmp_path / "odd.safetensors")
    save_file({"weight": np.eye(3, dtype=np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors: need a file of format"):
        kmeans.load(tmp_path / "model.safetensors")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    Codebook(np.eye(3)).save(tmp_path / "units.safetensors")
    before = (tmp_path / "units.safetensors").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        Codebook(np.eye(4)).save(tmp_path / "units.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["units.safetensors"]
    assert (tmp_path / "units.safetensors").read_bytes() == before


def test_another_encoder_is_refused_by_what_differs():
    features, _ = blobs(dimension=39)
    codebook = fit(features, clusters=3, encoder=load_encoder("mfcc"))
    codebook.check(load_encoder("mfcc"))
    with pytest.raises(ValueError, match=r"fitted on an encoder with frame_rate 25.0, this one has 50.0"):
        codebook.check(load_encoder("mfcc-50hz"))
    with pytest.raises(ValueError, match="fitted on 3 dimensions, the encoder has 39"):
        Codebook(np.eye(3)).check(load_encoder("mfcc"))


def test_provenance_is_json_and_names_its_encoder():
    features, _ = blobs(dimension=39)
    encoder = load_encoder("mfcc")
    provenance = json.loads(json.dumps(fit(features, clusters=3, encoder=encoder).provenance))
    assert provenance["encoder"] == encoder.provenance
