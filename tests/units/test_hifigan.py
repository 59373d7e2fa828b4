"""Unit HiFi-GAN generators of both layouts, with random weights, against a forward pass written here."""

import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from units.vocoder import load_vocoder
from units.vocoder.hifigan import load_hifigan

BASE = {
    "num_embeddings": 20, "embedding_dim": 8, "model_in_dim": 8, "upsample_rates": [5, 4],
    "upsample_kernel_sizes": [11, 8], "upsample_initial_channel": 16, "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    "dur_predictor_params": {
        "encoder_embed_dim": 8, "var_pred_hidden_dim": 6, "var_pred_kernel_size": 3, "var_pred_dropout": 0.5
    },
}  # fmt: skip
LAYOUTS = {
    "units alone": {},
    "speakers, quantised F0": {
        "multispkr": "parent_name", "num_speakers": 3, "f0": True, "f0_quant_num_bin": 5, "model_in_dim": 24
    },
    "speakers and styles of textlesslib": {
        "multispkr": True, "num_speakers": 3, "multistyle": True, "num_styles": 2, "model_in_dim": 24
    },
    "raw F0, a speaker's vector": {"f0": True, "embedder_params": {"x": 1}, "embedder_dim": 5, "model_in_dim": 17},
    "Spirit LM, expressive": {
        "multispkr": True, "num_speakers": 4, "num_f0_tokens": 64, "num_style_tokens": 100, "code_hop_size": 640,
        "f0_hop_size": 1280, "style_hop_size": 16000, "model_in_dim": 32,
    },
}  # fmt: skip


def random_weights(config):
    """A checkpoint of the layout, weight normalisation in two tensors as torch stores it."""
    rng = torch.Generator().manual_seed(0)
    weights = {}

    def plain(name, *shape):
        weights[name] = 0.3 * torch.randn(*shape, generator=rng)

    def normed(name, *shape, bias):
        weights[f"{name}.weight_v"] = torch.randn(*shape, generator=rng)
        weights[f"{name}.weight_g"] = torch.rand(shape[0], 1, 1, generator=rng) + 0.2
        plain(f"{name}.bias", bias)

    width = config["embedding_dim"]
    plain("dict.weight", config["num_embeddings"], width)
    tables = {"f0_dict": "num_f0_tokens", "style_dict": "num_style_tokens", "f0_quant_embed": "f0_quant_num_bin",
              "spkr": "num_speakers", "style": "num_styles"}  # fmt: skip
    for name, key in tables.items():
        if key in config:
            plain(f"{name}.weight", config[key], width)
    if "embedder_params" in config:
        plain("spkr.weight", width, 5)
        plain("spkr.bias", width)
    for n, inputs in ((1, 8), (2, 6)):
        plain(f"dur_predictor.conv{n}.0.weight", 6, inputs, 3)
        plain(f"dur_predictor.conv{n}.0.bias", 6)
        plain(f"dur_predictor.ln{n}.weight", 6)
        plain(f"dur_predictor.ln{n}.bias", 6)
    plain("dur_predictor.proj.weight", 1, 6)
    weights["dur_predictor.proj.bias"] = torch.tensor([1.2])
    normed("conv_pre", 16, config["model_in_dim"], 7, bias=16)
    for i, (inputs, kernel) in enumerate(((16, 11), (8, 8))):
        normed(f"ups.{i}", inputs, inputs // 2, kernel, bias=inputs // 2)
        for j, size in enumerate((3, 7)):
            for part in ("convs1", "convs2"):
                for k in range(3):
                    normed(
                        f"resblocks.{2 * i + j}.{part}.{k}", inputs // 2, inputs // 2, size, bias=inputs // 2
                    )
    normed("conv_post", 1, 4, 7, bias=1)
    return weights


def reference(w, rows):
    """(N, D) rows of embeddings -> samples, from the two-tensor weights."""

    def weight(name):
        v = w[f"{name}.weight_v"]
        return w[f"{name}.weight_g"] * v / v.pow(2).sum(dim=(1, 2), keepdim=True).sqrt()

    x = F.conv1d(rows.T[None], weight("conv_pre"), w["conv_pre.bias"], padding=3)
    for i, (rate, kernel) in enumerate(((5, 11), (4, 8))):
        x = torch.where(x > 0, x, 0.1 * x)
        x = F.conv_transpose1d(
            x, weight(f"ups.{i}"), w[f"ups.{i}.bias"], stride=rate, padding=(kernel - rate) // 2
        )
        total = 0
        for j, size in enumerate((3, 7)):
            y, block = x, f"resblocks.{2 * i + j}"
            for k, dilation in enumerate((1, 3, 5)):
                z = torch.where(y > 0, y, 0.1 * y)
                name = f"{block}.convs1.{k}"
                z = F.conv1d(
                    z, weight(name), w[f"{name}.bias"], padding=dilation * (size // 2), dilation=dilation
                )
                z = torch.where(z > 0, z, 0.1 * z)
                name = f"{block}.convs2.{k}"
                y = y + F.conv1d(z, weight(name), w[f"{name}.bias"], padding=size // 2)
            total = total + y
        x = total / 2
    x = torch.where(x > 0, x, 0.01 * x)
    return torch.tanh(F.conv1d(x, weight("conv_post"), w["conv_post.bias"], padding=3))[0, 0].numpy()


def reference_lengths(w, units):
    """Lengths of units, from the definition: two convolutions with layer norms, exp - 1, rounded, at least 1."""
    x = w["dict.weight"][units].T[None]
    for n in (1, 2):
        x = F.relu(
            F.conv1d(x, w[f"dur_predictor.conv{n}.0.weight"], w[f"dur_predictor.conv{n}.0.bias"], padding=1)
        )
        x = x - x.mean(dim=1, keepdim=True)
        x = x / (x.pow(2).mean(dim=1, keepdim=True) + 1e-5).sqrt()
        x = x * w[f"dur_predictor.ln{n}.weight"][:, None] + w[f"dur_predictor.ln{n}.bias"][:, None]
    logs = w["dur_predictor.proj.weight"][0] @ x[0] + w["dur_predictor.proj.bias"]
    return torch.round(logs.exp() - 1).clamp(min=1).long()


def folder_of(path, config, weights, name="generator.pt"):
    (path / "config.json").write_text(json.dumps(config))
    torch.save({"generator": weights}, path / name)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_generator_gives_the_samples_of_the_forward_pass_written_here(layout, tmp_path):
    config = {**BASE, **LAYOUTS[layout]}
    w = random_weights(config)
    (tmp_path / "speakers.txt").write_text("ann\nbob\ncem\n")
    vocoder = load_vocoder(folder_of(tmp_path, config, w))
    units = np.arange(130) * 7 % 20
    lengths = reference_lengths(w, torch.from_numpy(units))
    assert lengths.max() > 1
    pitch, style = np.arange(130) % 64, np.arange(130) // 26
    f0 = np.arange(int(lengths.sum())) % 5
    vector = np.linspace(-1, 1, 5).astype(np.float32)
    parts = [w["dict.weight"][units]]
    parts += [w["f0_dict.weight"][pitch], w["style_dict.weight"][style]] if "num_f0_tokens" in config else []
    rows = torch.cat(parts, dim=1).repeat_interleave(lengths, dim=0)
    if config.get("f0"):
        values = torch.from_numpy(f0)
        own = w["f0_quant_embed.weight"][values] if "f0_quant_num_bin" in config else values.float()[:, None]
        rows = torch.cat([rows, own], dim=1)
    if "embedder_params" in config:
        speaker = w["spkr.weight"] @ torch.from_numpy(vector) + w["spkr.bias"]
        rows = torch.cat([rows, speaker.expand(len(rows), -1)], dim=1)
    elif config.get("multispkr"):
        rows = torch.cat([rows, w["spkr.weight"][1].expand(len(rows), -1)], dim=1)
    if config.get("multistyle"):
        rows = torch.cat([rows, w["style.weight"][1].expand(len(rows), -1)], dim=1)
    name = ("bob" if "multispkr" in config else "") + ("/1" if "multistyle" in config else "")
    made = vocoder.speak(units, pitch, style, vocoder.voice(name), f0=f0, speaker_vector=vector)
    np.testing.assert_allclose(made, reference(w, rows), atol=2e-5)


def test_a_checkpoint_that_holds_code_is_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code ran",))

    (tmp_path / "config.json").write_text(json.dumps(BASE))
    (tmp_path / "generator.pt").write_bytes(pickle.dumps({"generator": Bomb()}))
    with pytest.raises(
        ValueError, match=r"generator.pt: need a whole checkpoint of plain tensors and no code"
    ):
        load_hifigan(tmp_path)


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    w = random_weights(BASE)
    with pytest.raises(ValueError, match=r"config.json: need the config of a unit HiFi-GAN"):
        load_hifigan(tmp_path)
    folder_of(tmp_path, {**BASE, "num_embeddings": 21}, w)
    with pytest.raises(ValueError, match=r"weight dict.weight: need shape \(21, 8\), got \(20, 8\)"):
        load_hifigan(tmp_path)
    folder_of(tmp_path, {**BASE, "model_in_dim": 9}, w)
    with pytest.raises(ValueError, match="model_in_dim: need 8 for these embeddings, got 9"):
        load_hifigan(tmp_path)
    vocoder = load_hifigan(folder_of(tmp_path, BASE, w))
    with pytest.raises(ValueError, match="need units from 0 to 19, got 20"):
        vocoder.speak(np.array([3, 20]))
    with pytest.raises(ValueError, match="voice: speaker: need a number from 0 to 0, got 'bob'"):
        vocoder.voice("bob")
