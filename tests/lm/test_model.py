"""lm/model.py against transformers, and its promises on packing, caching and files."""

import dataclasses
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import lm.model
from lm.model import IGNORE, PRESETS, Cache, Model, ModelSettings, preset


def small(**changes):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return ModelSettings(vocab_size=96, **(shape | heads | changes))


def ids(*shape, seed=0, high=96):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


VARIANTS = {
    "plain": {},
    "tied, long base": {"tie_word_embeddings": True, "rope_theta": 100_000.0},
    "biases": {"attention_bias": True},
    "qwen2": {"model_type": "qwen2"},
    "wide heads": {"head_dim": 16},
    "llama3 angles": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_model_gives_the_same_logits_in_transformers(variant, tmp_path):
    model = Model(small(**VARIANTS[variant]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
            else:
                parameter.mul_(3)  # far from zero, or the comparison is easy
    model.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = ids(2, 50)
    assert type(theirs).__name__ == ("Qwen2ForCausalLM" if variant == "qwen2" else "LlamaForCausalLM")
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("make", "config"), [(LlamaForCausalLM, LlamaConfig), (Qwen2ForCausalLM, Qwen2Config)]
)
@pytest.mark.parametrize("shards", ["5GB", "10KB"])
def test_a_directory_of_transformers_opens_here(make, config, shards, tmp_path):
    theirs = make(
        config(
            vocab_size=96,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).eval()
    theirs.save_pretrained(tmp_path, max_shard_size=shards)
    tokens = ids(2, 20)
    torch.testing.assert_close(
        Model.from_pretrained(tmp_path)(tokens), theirs(tokens).logits, atol=1e-4, rtol=0
    )


def test_save_and_load_give_back_every_weight(tmp_path):
    model = Model(small(tie_word_embeddings=True))
    model.save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path)
    assert again.settings == model.settings
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    for name, tensor in model.weights().items():
        assert torch.equal(again.weights()[name], tensor)


def test_packed_documents_give_the_logits_they_give_alone():
    model = Model(small()).eval()
    lengths = [7, 1, 12]
    documents = [ids(1, n, seed=n) for n in lengths]
    packed = torch.cat(documents, 1)
    numbers = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    alone = torch.cat([model(tokens) for tokens in documents], 1)
    torch.testing.assert_close(model(packed, positions, numbers), alone, atol=1e-5, rtol=0)


def test_the_blocks_of_a_gpu_let_see_what_the_lengths_of_a_cpu_do(monkeypatch):
    model, tokens = Model(small()).requires_grad_(False), ids(2, 20)
    documents = torch.tensor([[0] * 7 + [1] + [2] * 12, [0] * 20])
    wanted = model(tokens, None, documents)
    monkeypatch.setattr(lm.model, "document_mask", lm.model.document_blocks)
    monkeypatch.setattr(lm.model, "_flex", lambda: flex_attention)  # uncompiled, so that a CPU can
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which torch finds worth a warning
        torch.testing.assert_close(model(tokens, None, documents), wanted)


def test_no_gradient_flows_from_one_document_to_another():
    model = Model(small())
    embedded = []
    model.model.embed_tokens.register_forward_hook(lambda *a: embedded.append(a[2]) or a[2].retain_grad())
    documents = torch.tensor([[0, 0, 0, 1, 1]])
    model(ids(1, 5), None, documents)[0, 3:].sum().backward()
    assert embedded[0].grad[0, :3].abs().sum() == 0
    assert embedded[0].grad[0, 3:].abs().sum() > 0


@pytest.mark.parametrize("changes", [{"chunk": 5}, {}])
def test_losses_are_the_cross_entropy_of_the_logits_and_zero_where_ignored(changes):
    model = Model(small())
    tokens, targets = ids(2, 12), ids(2, 12, seed=1)
    targets[0, 3:6] = IGNORE
    losses = model(tokens, targets=targets, **changes)
    wanted = F.cross_entropy(
        model(tokens).flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORE
    )
    torch.testing.assert_close(losses.flatten(), wanted)
    assert losses[0, 3:6].tolist() == [0, 0, 0]


@pytest.mark.parametrize("recompute", [False, True])
def test_chunks_and_recomputation_leave_the_gradients_as_they_are(recompute):
    plain, saving = Model(small()), Model(small(), recompute=recompute)
    saving.load_state_dict(plain.state_dict())
    tokens, targets = ids(2, 12), ids(2, 12, seed=1)
    plain(tokens, targets=targets).sum().backward()
    saving(tokens, targets=targets, chunk=7).sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_cache_gives_the_logits_of_the_whole_sequence_for_unequal_lengths():
    model = Model(small()).eval()
    tokens, lengths = ids(2, 10), torch.tensor([3, 6])
    cache = Cache(model, 2, 10)
    first = model(tokens[:, :6], torch.arange(6).expand(2, 6), cache=cache, last=lengths - 1)
    torch.testing.assert_close(first[0], model(tokens[:1, :3])[0, -1])
    torch.testing.assert_close(first[1], model(tokens[1:, :6])[0, -1])
    for step in range(4):
        at = lengths + step
        logits = model(tokens.gather(1, at[:, None]), at[:, None], cache=cache)
        for b in range(2):
            torch.testing.assert_close(logits[b, 0], model(tokens[b : b + 1, : at[b] + 1])[0, -1])


def test_bfloat16_autocast_comes_close_and_leaves_float32_gradients():
    model, tokens, targets = Model(small()), ids(2, 12), ids(2, 12, seed=1)
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 12])
    wanted = model(tokens, None, documents, targets=targets)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(tokens, None, documents, targets=targets)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(losses, wanted, atol=0.05, rtol=0)


def test_presets_have_the_sizes_their_names_say():
    def millions(name):
        with torch.device("meta"):
            return sum(p.numel() for p in Model(preset(name, 32_000)).parameters()) / 1e6

    assert set(PRESETS) == {"pico", "nano", "tiny", "small", "135m", "360m", "1b", "7b"}
    assert 0.7e3 < millions("1b") < 1.3e3
    assert 6.5e3 < millions("7b") < 7e3
    assert 100 < millions("135m") < 140


def number_config(folder):
    (folder / "config.json").write_text("7")


def broken_config(folder):
    (folder / "config.json").write_text("{")


def other_kind(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def empty(folder):
    (folder / "model.safetensors").write_bytes(b"")


def gone(folder):
    (folder / "model.safetensors").unlink()


def other_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 97}))


def missing_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_config, "config.json: not a usable record: need JSON"),
        (number_config, "config.json: not a usable record: need a JSON object, got 7"),
        (other_kind, "config.json: model_type: .* got 'mamba'"),
        (truncated, "model.safetensors: missing or damaged"),
        (empty, "model.safetensors: missing or damaged"),
        (gone, "model.safetensors: missing or damaged"),
        (other_shape, r"model.safetensors: .* has shape \(96, 32\), config.json needs \(97, 32\)"),
        (missing_tensor, "1 tensors are missing, the first is model.norm.weight"),
    ],
)
def test_a_damaged_directory_is_one_clear_line(damage, message, tmp_path):
    Model(small()).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        Model.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_save_that_fails_leaves_the_old_weights(tmp_path, monkeypatch):
    model = Model(small())
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(*args, **kwargs):
        args[1].write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("lm.model.save_file", full)
    with pytest.raises(OSError, match=r"model.safetensors: cannot be written \(No space left on device\)"):
        Model(dataclasses.replace(small(), rope_theta=5.0)).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads: must divide"),
        ({"head_dim": 7}, "head_dim: must be even"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling: need 'llama3', got 'yarn'"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)
