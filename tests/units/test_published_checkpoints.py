"""Published models: read from every layout of files, and refused by name where broken."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from units.encoders import load_encoder


def test_what_is_no_hubert_is_refused_by_file_and_rule(huberts, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"config.json: need this file"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"config.json: need model_type 'hubert' or 'wav2vec2', got 'bert'"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: need JSON"):
        load_encoder(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"nobody/nothing: neither a directory nor a model that could be downloaded from the hub",
    ):
        load_encoder("nobody/nothing")
    with pytest.raises(ValueError, match=r"no/such/directory: need a directory"):
        load_encoder("no/such/directory")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conv_stride", [0] * 7, "conv_stride: need 1 to 32 integers of at least 1"),
        ("conv_kernel", [10, 3], "conv_dim, conv_kernel, conv_stride: need equal lengths"),
        ("conv_dim", None, "conv_dim: need 1 to 32 integers"),
        ("hidden_size", "32", "hidden_size: need an integer from 1 to 65536, got '32'"),
        ("num_hidden_layers", 10**9, "num_hidden_layers: need an integer from 0 to 1000"),
        ("num_attention_heads", 3, "num_attention_heads: need a divisor of hidden_size 32, got 3"),
        ("layer_norm_eps", "small", "layer_norm_eps: need a number from 0 to 1"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_by_name(huberts, tmp_path, name, value, message):
    _, folder = huberts["base"]
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(ValueError, match=rf"{tmp_path.name}: {message}"):
        load_encoder(tmp_path)


def test_layers_devices_and_sample_rates_that_cannot_be_are_refused(huberts, tmp_path):
    _, folder = huberts["base"]
    for layer in ("2", 1.5):
        with pytest.raises(ValueError, match=f"encoder.layer: need an integer, got {layer!r}"):
            load_encoder(folder, layer)
    assert load_encoder(folder, np.int64(2)).layer == 2
    with pytest.raises(ValueError, match=r"encoder.batch_seconds: need more than 0, got 0"):
        load_encoder(folder, batch_seconds=0)
    with pytest.raises(ValueError, match=r"encoder.device: need one that torch can use here, got 'meta'"):
        load_encoder(folder, device="meta")
    with pytest.raises(ValueError, match="encoder: need a name or a path, got ''"):
        load_encoder("")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 8000}))
    with pytest.raises(ValueError, match=r"preprocessor_config.json: need sampling_rate 16000, got 8000"):
        load_encoder(tmp_path)


def published(model, folder, layout):
    """The files of a model as those who published such models named them and their weights."""
    known = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim"}
    known |= {"conv_kernel", "conv_stride", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups"}
    known |= {"conv_bias", "feat_extract_norm", "do_stable_layer_norm", "hidden_act", "layer_norm_eps"}
    known |= {"feat_extract_activation", "model_type"}
    config = {name: value for name, value in model.config.to_dict().items() if name in known}
    config |= {
        "architectures": ["HubertModel"],
        "mask_time_prob": 0.05,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if layout in ("pytorch_model.bin of 2021", "fine-tuned, in two halves"):
        for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
            position = "encoder.pos_conv_embed.conv"
            weights[f"{position}.{old}"] = weights.pop(f"{position}.parametrizations.weight.{new}")
    weights |= {"masked_spec_embed": torch.zeros(32)}
    if layout == "fine-tuned, in two halves":
        weights = {f"hubert.{name}": tensor for name, tensor in weights.items()}
        weights |= {"lm_head.weight": torch.zeros(5, 32), "lm_head.bias": torch.zeros(5)}
        names = sorted(weights)
        halves = {
            "model-00001-of-00002.safetensors": names[::2],
            "model-00002-of-00002.safetensors": names[1::2],
        }
        for file, some in halves.items():
            save_file({name: weights[name].contiguous() for name in some}, folder / file)
        index = {name: file for file, some in halves.items() for name in some}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    elif layout == "pytorch_model.bin of 2021":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(
            {name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors"
        )
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("base", "pytorch_model.bin of 2021"),  # as hubert-base-ls960
        ("base", "model.safetensors"),  # as mHuBERT-147
        ("25 Hz", "model.safetensors"),  # as the 25 Hz mHuBERT
        ("large", "pytorch_model.bin of 2021"),  # as hubert-large-ll60k
        ("large", "fine-tuned, in two halves"),  # as hubert-large-ls960-ft
    ],
)
def test_models_are_read_as_they_were_published(huberts, tmp_path, kind, layout):
    model, folder = huberts[kind]
    published(model, tmp_path, layout)
    assert load_encoder(tmp_path).identity == load_encoder(folder).identity


def test_weights_that_are_broken_or_incomplete_are_refused_by_file(huberts, tmp_path):
    _, folder = huberts["base"]
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"need model.safetensors or pytorch_model.bin, got neither"):
        load_encoder(tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "model.safetensors").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"model.safetensors: need a whole safetensors file"):
            load_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(ValueError, match=r"need all weights .* missing: encoder.layers.3"):
        load_encoder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = "encoder.layers.1.attention.q_proj.weight"
    for wrong in (weights[name] * torch.nan, weights[name].int()):
        save_file(weights | {name: wrong}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=rf"weight {name}: need finite floating point numbers"):
            load_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(ValueError, match=r"weight .*: need shape \(64, .* by its settings, got \(32, "):
        load_encoder(tmp_path)


def test_weights_in_several_files_are_read_from_all_of_them(huberts, tmp_path):
    model, folder = huberts["base"]
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert load_encoder(tmp_path).identity == load_encoder(folder).identity
    next(tmp_path.glob("model-*.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"model-.*.safetensors: need a whole safetensors file"):
        load_encoder(tmp_path)


def test_a_name_of_the_hub_is_read_from_where_the_hub_client_puts_it(huberts, monkeypatch):
    _, folder = huberts["base"]
    requested = []

    def snapshot_download(name, allow_patterns):
        requested.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_encoder("someone/hubert-small").identity == load_encoder(folder).identity
    patterns = ["config.json", "preprocessor_config.json", "model*.safetensors*"]
    assert requested == [("someone/hubert-small", patterns)]  # and no pickle, where safetensors are there


def test_an_older_pytorch_model_is_read_without_running_code(huberts, tmp_path):
    model, folder = huberts["base"]
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(
        {f"hubert.{name}": tensor for name, tensor in model.state_dict().items()},
        tmp_path / "pytorch_model.bin",
    )
    assert load_encoder(tmp_path).identity == load_encoder(folder).identity
    trap = tmp_path / "sprung"
    torch.save({"weight": Trap(str(trap))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"pytorch_model.bin: need a whole checkpoint of plain tensors and no code"
    ):
        load_encoder(tmp_path)
    assert not trap.exists()


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)
