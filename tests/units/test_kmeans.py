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


def on_device(codebook, features, **settings):
    x = torch.from_numpy(features)
    return codebook.decide(x, codebook.assign_on_device(x, **settings).numpy())


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
    assert np.array_equal(on_device(codebook, features), brute_force(features, centroids))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(0, 300), st.integers(1, 300))
def test_the_unit_of_a_frame_does_not_depend_on_its_neighbours(seed, start, length):
    rng = np.random.default_rng(seed)
    codebook = Codebook(rng.normal(size=(50, 64)))
    features = rng.normal(size=(500, 64)).astype(np.float32)
    part = slice(start, start + length)
    assert np.array_equal(codebook.assign(features[part]), codebook.assign(features)[part])


@pytest.mark.parametrize("assign", [Codebook.assign, on_device])
def test_no_frames_give_no_units(assign):
    units = assign(Codebook(np.eye(3)), np.zeros((0, 3), np.float32))
    assert units.shape == (0,)
    assert units.dtype == np.int32


def test_a_device_decides_all_units_but_ties_and_unstable_ones():
    codebook = Codebook(np.array([[0.0, 0.0], [2.0, 0.0], [900.0, 0.0]]))
    x = torch.tensor([[0.9, 0.0], [1.0, 0.0], [1.0 + 1e-6, 0.0], [1.0 + 3e-5, 0.0], [1.1, 0.0]])
    assert codebook.assign_on_device(x).tolist() == [0, kmeans.UNDECIDED, 1, 1, 1]
    assert codebook.assign_on_device(x, tolerance=1e-5).tolist() == [
        0,
        kmeans.UNDECIDED,
        kmeans.UNDECIDED,
        1,
        1,
    ]
    rng = np.random.default_rng(0)
    codebook = Codebook(rng.normal(size=(500, 256)))
    features = torch.from_numpy(rng.normal(size=(4000, 256)).astype(np.float32))
    units = codebook.assign_on_device(features, tolerance=1e-5).numpy()
    assert (units == kmeans.UNDECIDED).mean() < 0.002


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_no_decided_unit_changes_when_its_frame_changes_by_less(seed):
    rng = np.random.default_rng(seed)
    codebook = Codebook(rng.normal(size=(6, 3)))
    features = rng.normal(size=(3000, 3)).astype(np.float32)
    units = codebook.assign_on_device(torch.from_numpy(features), tolerance=1e-2).numpy()
    steps = rng.normal(size=features.shape)
    steps *= (
        0.99e-2
        * np.linalg.norm(features, axis=1, keepdims=True)
        / np.linalg.norm(steps, axis=1, keepdims=True)
    )
    changed = codebook.assign((features + steps).astype(np.float32)) != codebook.assign(features)
    assert changed.any()
    assert (units[changed] == kmeans.UNDECIDED).all()


def test_frames_too_large_for_single_precision_scores_still_find_the_nearest():
    codebook = Codebook(np.array([[0.0], [1e30], [3e30]]))
    features = np.array([[2.5e30], [4e29]], np.float32)
    assert codebook.assign(features).tolist() == [2, 0]
    assert on_device(codebook, features).tolist() == [2, 0]


def test_features_that_cannot_be_assigned_are_refused_with_the_rule():
    codebook = Codebook(np.eye(3))
    with pytest.raises(ValueError, match=r"features: need shape \(F, 3\), got \(4, 2\)"):
        codebook.assign(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="features: need finite numbers"):
        codebook.assign(np.array([[0, np.nan, 0]]))
    with pytest.raises(ValueError, match="features: need finite numbers"):
        on_device(codebook, np.array([[0, 1, 0], [0, np.nan, 0]]))
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


def test_a_codebook_of_fewer_different_frames_than_clusters_reports_dead_ones():
    features = np.repeat(np.random.default_rng(0).normal(size=(10, 4)), 20, axis=0)
    assert fit(features, clusters=16).provenance["dead"] == 6


def test_a_gpu_is_used_where_torch_finds_one_and_refused_where_it_does_not(monkeypatch):
    for present in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert kmeans.fit_device() == ("cuda" if present else "cpu")
        assert kmeans.fit_device("cpu") == "cpu"
    with pytest.raises(ValueError, match=r"kmeans.device: need a GPU that torch can use, found none"):
        kmeans.fit_device("gpu")


@pytest.mark.parametrize("seeding", kmeans.SEEDINGS)
def test_lloyd_steps_in_torch_give_the_centroids_of_faiss_from_the_same_seeding(seeding, monkeypatch):
    features = np.random.default_rng(0).normal(size=(3000, 5)).astype(np.float32)
    monkeypatch.setattr(kmeans, "TILE", 700)
    how = {"iterations": 6, "restarts": 1, "seed": 3, "seeding": seeding}
    expected = kmeans.train_with_faiss(features, 25, **how)
    by_torch = kmeans.train_with_torch(features, 25, **how, device="cpu")
    assert np.allclose(by_torch, expected, rtol=1e-4, atol=1e-4)
    fewer = kmeans.train_with_torch(features, 25, **how | {"iterations": 5}, device="cpu")
    assert not np.allclose(fewer, expected, rtol=1e-4, atol=1e-4)
    start = features[:25]
    assert np.allclose(
        kmeans.train_with_torch(features, 25, **how, start=start, device="cpu"),
        kmeans.train_with_faiss(features, 25, **how, start=start),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_fit_with_torch_reports_the_gpu_and_is_as_good_as_one_with_faiss(monkeypatch):
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(2000, 3)) * 1e-4, rng.normal(size=(60, 3)) * 100])
    with_faiss = fit(features, clusters=50, restarts=3, device="cpu")
    plain = kmeans.train_with_torch
    monkeypatch.setattr(kmeans, "fit_device", lambda device: "cuda")
    monkeypatch.setattr(kmeans, "train_with_torch", lambda *a, device, **k: plain(*a, device="cpu", **k))
    with_torch, again = (fit(features, clusters=50, restarts=3) for _ in range(2))
    assert (with_faiss.provenance["fitted_on"], with_torch.provenance["fitted_on"]) == ("cpu", "gpu")
    assert with_torch.hash == again.hash
    assert with_torch.provenance["dead"] == 0
    assert with_torch.provenance["inertia"] < 1.1 * with_faiss.provenance["inertia"]


def test_wrong_settings_of_a_fit_are_refused():
    features, _ = blobs()
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
        record = {"wordweave": metadata}
        save_file({"centroids": np.eye(3, dtype=np.float32)}, tmp_path / "odd.safetensors", record)
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
