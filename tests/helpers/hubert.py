"""Small random HuBERTs of every layout, and noise in place of speech."""

import numpy as np
import torch
from transformers import HubertConfig, HubertModel

from units.kmeans import Codebook

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LAYOUTS = {
    "base": SMALL,
    "25 Hz": SMALL
    | {
        "conv_dim": [16] * 8,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2],
    },
    "large": SMALL | {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True},
    "few wide kernels": SMALL
    | {
        "conv_dim": [16, 24, 16],
        "conv_kernel": [400, 3, 4],
        "conv_stride": [160, 2, 2],
        "num_conv_pos_embeddings": 15,
    },
    "batch norm": SMALL | {"conv_pos_batch_norm": True, "feat_proj_layer_norm": False},
}


def random_hubert(layout: str) -> HubertModel:
    """With norms and biases that differ from the initial ones and zeros."""
    torch.manual_seed(0)
    model = HubertModel(HubertConfig(**LAYOUTS[layout])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.05
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer += torch.rand_like(buffer)
    return model


def speech_like(rng, samples):
    """Noise with a slow envelope, an offset and a loudness of its own."""
    envelope = np.abs(np.sin(np.linspace(0, rng.uniform(1, 20), samples)))
    return (rng.normal(size=samples) * envelope * rng.uniform(0.01, 0.5) + rng.normal() * 0.02).astype(
        np.float32
    )


@torch.no_grad()
def transformers_alone(model, waveform, layer):
    states = model(torch.from_numpy(waveform)[None], output_hidden_states=True).hidden_states
    return states[layer][0].float().numpy()


def flat_codebook(features, clusters=100):
    """Units as fine as possible: every sampled frame is a centroid."""
    frames = np.concatenate(features)
    return Codebook(frames[np.random.default_rng(0).permutation(len(frames))[:clusters]])


def as_on_a_gpu(encoder):
    """The same encoder with the algorithm for a GPU: recordings in one signal, attention masked, one batch ahead."""
    assert (encoder._on_device, encoder._transformer.padded, encoder.exact) == (False, False, True)
    encoder._on_device, encoder._transformer.padded, encoder.exact = True, True, False
    return encoder
