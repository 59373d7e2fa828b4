import argparse
import os
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import HubertConfig, HubertModel

from units.encoders import load_encoder
from units.hubert.fairseq import RENAMED, parse_convolutions

SLOW = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 3"
SETTINGS = {
    "_name": "hubert",
    "conv_feature_layers": SLOW,
    "extractor_mode": "default",
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 2,
    "conv_pos": 16,
    "conv_pos_groups": 4,
}
CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 8,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


class Dictionary:
    """Stands for fairseq's class of that name."""

    def __init__(self):
        self.symbols = ["a", "b"]


class Trap:
    """Unpickled, it makes a directory."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def as_if_fairseq(monkeypatch):
    """Pickle `Dictionary` under the name it has in fairseq, which is not installed."""
    import sys
    from types import ModuleType

    for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["fairseq.data.dictionary"].Dictionary = Dictionary
    monkeypatch.setattr(Dictionary, "__module__", "fairseq.data.dictionary")
    yield
    monkeypatch.undo()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    model = HubertModel(HubertConfig(**CONFIG)).eval()
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return model, folder


def fairseq_names(model):
    """The model's weights under fairseq's names: the inverse of `rename_weights`."""
    names = {
        "feature_projection.layer_norm": "layer_norm",
        "feature_projection.projection": "post_extract_proj",
        "feature_extractor.conv_layers.0.layer_norm": "feature_extractor.conv_layers.0.2",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder.pos_conv.0.weight_g",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.pos_conv.0.weight_v",
        "encoder.pos_conv_embed.conv.bias": "encoder.pos_conv.0.bias",
        ".attention.": ".self_attn.",
        "feed_forward.intermediate_dense": "fc1",
        "feed_forward.output_dense": "fc2",
    }
    weights = {
        "mask_emb": torch.zeros(32),
        "final_proj.weight": torch.zeros(4, 32),
        "label_embs_concat": torch.zeros(9),
    }
    for name, tensor in model.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        name = re.sub(r"(conv_layers\.\d+)\.conv\.", r"\1.0.", name)
        weights[re.sub(r"(layers\.\d+)\.layer_norm", r"\1.self_attn_layer_norm", name)] = tensor
    return weights


def features(source, layer=None):
    waveform = np.random.default_rng(0).normal(size=20_000).astype(np.float32) * 0.1
    return load_encoder(source, layer).encode([waveform])[0]


def spirit_file(model, task, **changes):
    return {"model_cfg": SETTINGS | changes, "task_cfg": task, "model_weight": fairseq_names(model)}


def test_a_spirit_lm_checkpoint_gives_the_features_of_the_same_weights_in_hugging_face_format(
    model, tmp_path
):
    torch.save(spirit_file(model[0], {"normalize": False}), tmp_path / "mhubert.pt")
    for layer in (0, 1, 2):
        assert np.array_equal(features(tmp_path / "mhubert.pt", layer), features(model[1], layer))
    encoder = load_encoder(tmp_path / "mhubert.pt", 1)
    assert (encoder.hop, encoder.minimum, encoder.centre, encoder.frame_rate) == (640, 720, 360, 25.0)
    assert encoder.identity == load_encoder(model[1], 1).identity


def test_a_checkpoint_trained_on_normalised_waveforms_normalises_them(model, tmp_path):
    torch.save(spirit_file(model[0], {"normalize": True}), tmp_path / "mhubert.pt")
    waveform = np.random.default_rng(0).normal(size=20_000).astype(np.float32) * 0.1 + 0.3
    expected = torch.nn.functional.layer_norm(torch.from_numpy(waveform), waveform.shape).numpy()
    features = load_encoder(tmp_path / "mhubert.pt").encode([waveform])[0]
    assert np.abs(features - load_encoder(model[1]).encode([expected])[0]).max() < 1e-4


def test_fairseqs_own_files_are_read_with_their_objects_left_inert(model, tmp_path, as_if_fairseq):
    content = {
        "args": None,
        "cfg": {"model": SETTINGS, "task": {"normalize": False}, "common": {"seed": 1}},
        "model": fairseq_names(model[0]),
        "task_state": {"dictionaries": [Dictionary(), Dictionary()]},
    }
    older = {
        "args": argparse.Namespace(**SETTINGS, normalize=False),
        "cfg": None,
        "model": fairseq_names(model[0]),
    }
    for zipped in (True, False):
        torch.save(content, tmp_path / "new.pt", _use_new_zipfile_serialization=zipped)
        torch.save(older, tmp_path / "old.pt", _use_new_zipfile_serialization=zipped)
        for name in ("new.pt", "old.pt"):
            assert np.array_equal(features(tmp_path / name), features(model[1]))


def test_a_large_layout_is_renamed_whole():
    names = ["feature_extractor.conv_layers.3.2.1.weight", "feature_extractor.conv_layers.3.0.bias"]
    renamed = [re.sub(old, new, name) for name in names for old, new in RENAMED if re.fullmatch(old, name)]
    assert renamed == [
        "feature_extractor.conv_layers.3.layer_norm.weight",
        "feature_extractor.conv_layers.3.conv.bias",
    ]


def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_not_run(model, tmp_path):
    for zipped in (True, False):
        torch.save(
            spirit_file(model[0], {"normalize": Trap(tmp_path / "sprung")}),
            tmp_path / "evil.pt",
            _use_new_zipfile_serialization=zipped,
        )
        with pytest.raises(
            ValueError, match=r"evil.pt: need a whole checkpoint of plain tensors and no code"
        ):
            load_encoder(tmp_path / "evil.pt")
    assert not (tmp_path / "sprung").exists()


def test_other_checkpoints_are_refused_by_file_and_rule(model, tmp_path):
    file = tmp_path / "other.pt"
    cases = [
        (
            {"model": {}, "optimizer": {}},
            r"need model_cfg, task_cfg and model_weight, or cfg and model|need all weights",
        ),
        ([1, 2], "need a dict, got list"),
        (spirit_file(model[0], {}, _name="wav2vec_ctc"), "need a HuBERT, got a model named 'wav2vec_ctc'"),
        (
            spirit_file(model[0], {}, extractor_mode="odd"),
            "extractor_mode: need 'default' or 'layer_norm', got 'odd'",
        ),
        (
            spirit_file(model[0], {}, encoder_layers=3),
            r"need all weights .* 16 missing: encoder.layers.2.attention.q_proj",
        ),
        (
            spirit_file(model[0], {}, encoder_embed_dim=64),
            r"weight .*: need shape \(64, .*by its settings, got \(32, ",
        ),
        (spirit_file(model[0], {}, activation_fn="swish"), "hubert.activation: need one of .*, got 'swish'"),
    ]
    for content, message in cases:
        torch.save(content, file)
        with pytest.raises(ValueError, match=rf"other.pt: ({message})"):
            load_encoder(file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"other.pt: need a whole checkpoint"):
        load_encoder(file)
    with pytest.raises(ValueError, match=r"gone.pt: need a whole checkpoint"):
        load_encoder(tmp_path / "gone.pt")


layer_lists = st.lists(st.tuples(*3 * [st.integers(1, 1024)]), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(st.tuples(layer_lists, st.integers(1, 2)), min_size=1, max_size=4))
def test_convolution_expressions_mean_what_python_says(terms):
    expression = " + ".join(f"{layers}*{times}" for layers, times in terms)
    assert parse_convolutions(expression) == [layer for layers, times in terms for layer in layers * times]


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').mkdir('sprung')",
        "[(512, 10, 5)] * 10**9",
        "[(512, 10, 5)] * 1000000000",
        "[(512, 10)]",
        "[(512, 10, -5)]",
        "[(512, 10, True)]",
        "[]",
        "[[512, 10, 5]",
        "(" * 500,
        "",
    ],
)
def test_other_expressions_are_refused_not_run(expression, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="conv_feature_layers: need lists of"):
        parse_convolutions(expression)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("normalize", [False, True])
def test_a_torchaudio_bundle_is_read_from_the_cache(tmp_path, monkeypatch, normalize):
    import torchaudio

    bundle = torchaudio.pipelines.HUBERT_LARGE if normalize else torchaudio.pipelines.HUBERT_BASE
    small = {
        "extractor_conv_layer_config": [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2,
        "encoder_embed_dim": 32,
        "encoder_num_heads": 2,
        "encoder_num_layers": 2,
        "encoder_ff_interm_features": 64,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 4,
    }
    monkeypatch.setattr(bundle, "_params", bundle._params | small)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    weights = torchaudio.models.wav2vec2_model(**bundle._params).state_dict()
    torch.save(weights, tmp_path / "hub" / "checkpoints" / bundle._path)
    waveform = np.random.default_rng(0).normal(size=20_000).astype(np.float32) * 0.1 + 0.1
    with torch.no_grad():
        layers, _ = bundle.get_model().extract_features(torch.from_numpy(waveform)[None])
    name = "torchaudio:HUBERT_LARGE" if normalize else "torchaudio:HUBERT_BASE"
    for layer in (1, 2):
        assert (
            np.abs(load_encoder(name, layer).encode([waveform])[0] - layers[layer - 1][0].numpy()).max()
            < 1e-4
        )


def test_unknown_bundles_are_refused_with_those_that_exist():
    with pytest.raises(
        ValueError, match=r"torchaudio:HUBERT_TINY: need one of \['HUBERT_ASR_LARGE', .*'HUBERT_BASE'"
    ):
        load_encoder("torchaudio:HUBERT_TINY")
