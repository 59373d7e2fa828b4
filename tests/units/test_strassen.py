"""Seven products for eight: the same product, and no row that hangs on another recording's."""

import numpy as np
import pytest
import torch

from tests.helpers.hubert import LAYOUTS, random_hubert, speech_like, transformers_alone
from units.encoders import load_encoder
from units.hubert import transformer
from units.strassen import multiply, seven

WIDE = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8}


@pytest.mark.parametrize("rows", [2, 38, 200])
def test_seven_products_of_quarters_are_the_product(rows):
    generator = torch.Generator().manual_seed(0)
    x, matrix, bias = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in ((rows, 64), (64, 48), (48,))
    )
    halves, neighbours = torch.empty(2, rows, 48, dtype=torch.float64)
    (upper, lower), (out_upper, out_lower) = x.chunk(2), halves.chunk(2)
    multiply(upper, lower, seven(matrix), bias, out_upper, out_lower)
    multiply(x[0::2], x[1::2], seven(matrix), bias, neighbours[0::2], neighbours[1::2])
    for found in (halves, neighbours):
        assert torch.allclose(found, x @ matrix + bias, atol=1e-12)


@pytest.fixture(scope="module", params=["base", "large"])
def wide(request, tmp_path_factory):
    """A HuBERT whose blocks are wide enough, both places of its norms, and its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAYOUTS, "wide", LAYOUTS[request.param] | WIDE)
        model = random_hubert("wide")
    folder = tmp_path_factory.mktemp("wide")
    model.save_pretrained(folder)
    return model, folder


def paired(folder):
    encoder = load_encoder(folder)
    if not encoder._transformer.paired:
        pytest.skip("rows are paired on a CPU with AVX2 alone")
    return encoder


def samples_of(frames):
    return 400 + 320 * (frames - 1)


def test_wide_layers_give_the_features_of_transformers(wide):
    model, folder = wide
    rng = np.random.default_rng(0)
    encoder = paired(folder)
    waveforms = [speech_like(rng, samples_of(frames)) for frames in (90, 1, 33)]
    for waveform, features in zip(waveforms, encoder.encode(waveforms)):
        expected = transformers_alone(model, waveform, 2)
        assert features.shape == expected.shape
        assert np.abs(features - expected).max() < 1e-4


def test_a_recording_keeps_its_last_bits_beside_any_others_where_rows_are_paired(wide, threads):
    threads(1)
    rng = np.random.default_rng(0)
    encoder = paired(wide[1])
    waveforms = [speech_like(rng, samples_of(n)) for n in [*range(1, 41), 97, 150, 263, 404]]
    alone = [encoder.encode([waveform])[0] for waveform in waveforms]
    for order in (np.arange(len(waveforms)), rng.permutation(len(waveforms))[:20]):
        for i, features in zip(order, encoder.encode([waveforms[i] for i in order])):
            assert np.array_equal(features, alone[i])


def test_narrow_layers_are_not_paired(wide, monkeypatch):
    encoder = paired(wide[1])
    assert isinstance(encoder._transformer.projection[0], torch.Tensor)  # 16 numbers to 512
    assert all(isinstance(layer[0], list) for layer in encoder._transformer.blocks[0][1:3])
    monkeypatch.setattr(transformer, "SEVEN_FROM", 1025)
    assert not load_encoder(wide[1])._transformer.paired
