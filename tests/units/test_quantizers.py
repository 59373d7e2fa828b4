import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from units.encoders import load_encoder
from units.kmeans import Codebook
from units.quantizers import LinearQuantizer, fill_blanks, load_codebook
from units.verify import verify

CENTRES = np.random.default_rng(0).normal(size=(7, 39)).astype(np.float32)


def released_quantizer(dimension=39, labels=6, seed=0):
    """The released network, as torch builds it, and its file's content."""
    torch.manual_seed(seed)
    layers = [
        torch.nn.Linear(dimension, 20),
        torch.nn.LeakyReLU(),
        torch.nn.Linear(20, 10),
        torch.nn.LeakyReLU(),
    ]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(10, labels))
    with torch.no_grad():
        network[4].bias[:] = 0
        network[4].weight[-1] *= 3  # so that some frames are blank
    configuration = {"vocab_size": labels - 1, "dim": dimension, "upstream_dim": dimension}
    return network, {"model_cfg": configuration, "model_weight": network.state_dict()}


def slow_fill(units, blank):
    """The rule as the specification words it: the whole chunk is rolled until no blank is left."""
    units = list(units)
    for _ in range(10_000):
        if blank not in units:
            break
        rolled = units[-1:] + units[:-1]
        units = [before if unit == blank else unit for unit, before in zip(units, rolled)]
    return units


@given(st.lists(st.integers(0, 3), max_size=12))
def test_blanks_take_the_unit_before_them_around_the_end(units):
    if set(units) == {3}:
        assert fill_blanks(np.array(units), blank=3).tolist() == units
    else:
        assert fill_blanks(np.array(units, int), blank=3).tolist() == slow_fill(units, 3)


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_the_released_linear_quantizer_gives_the_labels_of_its_network(tmp_path, prefix):
    network, content = released_quantizer()
    content["model_weight"] = {prefix + name: tensor for name, tensor in content["model_weight"].items()}
    torch.save(content, tmp_path / "L11_quantizer.pt")
    quantizer = load_codebook(tmp_path / "L11_quantizer.pt")
    features = np.random.default_rng(1).normal(size=(200, 39)).astype(np.float32) * 3
    with torch.no_grad():
        labels = network(torch.from_numpy(features)).argmax(dim=1).numpy()
    assert 0 < (labels == 5).sum() < 200
    assert quantizer.assign(features).tolist() == slow_fill(labels.tolist(), 5)
    assert (quantizer.clusters, quantizer.dimension) == (6, 39)
    assert quantizer.assign(features[:0]).shape == (0,)


def test_a_linear_quantizer_saved_by_us_comes_back(tmp_path):
    torch.save(released_quantizer()[1], tmp_path / "theirs.pt")
    quantizer = load_codebook(tmp_path / "theirs.pt", encoder=load_encoder("mfcc"))
    quantizer.save(tmp_path / "own.safetensors")
    back = load_codebook(tmp_path / "own.safetensors")
    assert isinstance(back, LinearQuantizer)
    assert back.hash == quantizer.hash
    features = np.random.default_rng(1).normal(size=(50, 39))
    assert np.array_equal(back.assign(features), quantizer.assign(features))
    with pytest.raises(ValueError, match=r"frame_rate 25.0, this one has 50.0"):
        back.check(load_encoder("mfcc-50hz"))


def test_plain_centroids_are_read_from_npy_torch_and_our_own_files(tmp_path):
    np.save(tmp_path / "centres.npy", CENTRES)
    torch.save({"cluster_centers": torch.from_numpy(CENTRES), "n_clusters": 7}, tmp_path / "tensor.pt")
    torch.save({"cluster_centers": CENTRES, "n_clusters": np.int64(7)}, tmp_path / "array.pt")
    Codebook(CENTRES).save(tmp_path / "own.safetensors")
    for path in tmp_path.iterdir():
        codebook = load_codebook(path)
        assert np.array_equal(codebook.centroids, CENTRES)
    named = load_codebook(tmp_path / "centres.npy").provenance
    assert named["imported"] == "centres.npy"
    assert named["encoder"] is None


def test_an_imported_codebook_can_be_bound_to_its_encoder(tmp_path):
    np.save(tmp_path / "centres.npy", CENTRES)
    bound = load_codebook(tmp_path / "centres.npy", encoder=load_encoder("mfcc"))
    bound.check(load_encoder("mfcc"))
    with pytest.raises(ValueError, match="frame_rate"):
        bound.check(load_encoder("mfcc-50hz"))
    np.save(tmp_path / "other.npy", np.eye(5))
    with pytest.raises(ValueError, match=r"other.npy: codebook: fitted on 5 dimensions, the encoder has 39"):
        load_codebook(tmp_path / "other.npy", encoder=load_encoder("mfcc"))


def test_a_scikit_learn_file_needs_trust(tmp_path):
    joblib = pytest.importorskip("joblib")
    cluster = pytest.importorskip("sklearn.cluster")
    model = cluster.KMeans(3, n_init=1, random_state=0).fit(CENTRES)
    joblib.dump(model, tmp_path / "km.bin")
    with pytest.raises(
        ValueError, match=r"km.bin: .*can run any code while it is read: set trust_pickle=True"
    ):
        load_codebook(tmp_path / "km.bin")
    trusted = load_codebook(tmp_path / "km.bin", trust_pickle=True)
    assert np.allclose(trusted.centroids, model.cluster_centers_)


class Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


def test_a_pickle_with_code_is_refused_and_the_code_not_run(tmp_path):
    trap = Trap(tmp_path / "sprung")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(trap))
    torch.save({"cluster_centers": trap}, tmp_path / "torch.pt")
    np.save(tmp_path / "array.npy", np.array([trap], dtype=object), allow_pickle=True)
    for name in ("raw.pkl", "torch.pt", "array.npy"):
        with pytest.raises(ValueError, match=name):
            load_codebook(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_files_that_hold_no_codebook_are_refused_by_name(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros(5))
    (tmp_path / "half.npy").write_bytes((tmp_path / "flat.npy").read_bytes()[:-3])
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save({"cluster_centers": torch.zeros(3, 2), "n_clusters": 4}, tmp_path / "odd.pt")
    broken = released_quantizer()[1]
    broken["model_weight"]["2.weight"] = torch.zeros(10, 21)
    torch.save(broken, tmp_path / "broken.pt")
    messages = {
        "flat.npy": r"need centroids of shape \(K, D\), got \(5,\)",
        "half.npy": "",
        "other.pt": "need model_weight of a linear quantizer or cluster_centers, got neither",
        "odd.pt": "n_clusters: need the number of centroids, 3, got 4",
        "broken.pt": "need linear layers that follow each other",
        "gone.pt": "no such codebook",
    }
    for name, message in messages.items():
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            load_codebook(tmp_path / name)


class Careless:
    """An encoder whose frames depend on the number of waveforms in the call."""

    def encode(self, waveforms):
        return [np.full((4, 1), float(len(waveforms) if len(waveform) > 5 else 1)) for waveform in waveforms]


def test_verify_counts_the_units_that_the_batch_changed():
    codebook = Codebook(np.array([[1.0], [3.0]]))
    waveforms = [np.zeros(9), np.zeros(2), np.zeros(2)]
    assert verify(Careless(), codebook, waveforms) == pytest.approx(4 / 12)
    assert verify(Careless(), codebook, waveforms[1:]) == 0
    assert verify(Careless(), codebook, []) == 0


def test_verify_compares_with_a_reference_and_counts_missing_frames():
    class Shorter:
        def encode(self, waveforms):
            return [np.ones((3, 1)) for _ in waveforms]

    assert verify(Careless(), Codebook(np.eye(1)), [np.zeros(2)], reference=Shorter()) == pytest.approx(1 / 4)
