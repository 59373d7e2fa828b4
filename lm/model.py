"""A Llama-shaped decoder with Hugging Face's parameter names and config keys.

`transformers` opens a directory written here unchanged, and Llama 2/3, SmolLM, TinyLlama and Qwen2 directories can be
opened here. Letters: B sequences, L tokens each, H heads, D size of a head, V vocabulary rows.
"""

import functools
import json
import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint

from corpus import files
from corpus.toml import fill
from lm.lora import initialised, merge

SHARDS = "shards"  # folder of a sharded checkpoint's safetensors files
TRAINING = ("optimiser.", "adapter.")
"""Prefixes of a checkpoint's tensors that are not the model's."""
IGNORE = -1
"""A target that is not predicted: the first token of a document, or padding."""

PRESETS: dict[str, dict[str, Any]] = {
    name: {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "tie_word_embeddings": tied,
    }
    for name, width, inner, layers, heads, key_value_heads, tied in (
        ("pico", 64, 192, 2, 4, 4, False),  # for an hour of speech or less
        ("nano", 128, 352, 4, 4, 4, False),  # 1 M parameters plus the vocabulary: CPU tests, make demo
        ("tiny", 256, 704, 6, 8, 8, False),
        ("small", 512, 1408, 8, 8, 8, False),
        ("135m", 576, 1536, 30, 9, 3, True),  # the shape of SmolLM2-135M
        ("360m", 960, 2560, 32, 15, 5, True),  # SmolLM2-360M
        ("1b", 2048, 8192, 16, 32, 8, True),  # Llama 3.2 1B
        ("7b", 4096, 11008, 32, 32, 32, False),  # Llama 2 7B, the paper's
    )
}
"""Shapes by name; `preset(name, vocab_size)` makes the settings."""


@dataclass(frozen=True)
class ModelSettings:
    """The shape of a model, with the keys of Hugging Face's config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = 0  # 0: hidden_size / num_attention_heads
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: Mapping[str, Any] | None = None  # None, or Llama 3.1's {"rope_type": "llama3", ...}
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    initializer_range: float = 0.02
    model_type: str = "llama"  # or qwen2: biases on query, key and value, none on the output

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads: must divide num_attention_heads {self.num_attention_heads}, "
                f"got {self.num_key_value_heads}"
            )
        if self.head_size % 2:
            raise ValueError(f"head_dim: must be even for rotary positions, got {self.head_size}")
        if self.model_type not in ("llama", "qwen2"):
            raise ValueError(f"model_type: need 'llama' or 'qwen2', got {self.model_type!r}")
        kind = (self.rope_scaling or {}).get("rope_type", "llama3")
        if kind != "llama3":
            raise ValueError(f"rope_scaling: need 'llama3', got {kind!r}")

    @property
    def head_size(self) -> int:
        """Of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


def preset(name: str, vocab_size: int, **changes: Any) -> ModelSettings:
    """Settings of a named shape.

    >>> preset("nano", 768, rope_theta=100_000.0).hidden_size
    128
    """
    if name not in PRESETS:
        raise ValueError(f"preset: need one of {', '.join(PRESETS)}, got {name!r}")
    return ModelSettings(vocab_size=vocab_size, **(PRESETS[name] | changes))


class Cache:
    """Keys and values of the tokens read so far; those of position p of sequence b are at [layer, b, :, p].

    Sequences of different lengths are padded on the right: a padded position is overwritten when its sequence
    reaches it, and until then is after every query, so no query sees it.
    """

    def __init__(self, model: "Model", batch: int, length: int):
        s, weight = model.settings, model.model.embed_tokens.weight
        shape = (s.num_hidden_layers, batch, s.num_key_value_heads, length, s.head_size)
        self.keys = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
        self.values = torch.zeros_like(self.keys)
        self.end = 0  # positions in use, over all sequences

    def update(self, layer: int, positions: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, H, L, D) at `positions` (B, L) and return everything stored, (B, H, end, D)."""
        index = positions[:, None, :, None].expand_as(key)
        self.keys[layer].scatter_(2, index, key.to(self.keys.dtype))
        self.values[layer].scatter_(2, index, value.to(self.values.dtype))
        return self.keys[layer, :, :, : self.end], self.values[layer, :, :, : self.end]


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, s: ModelSettings, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, s.head_size
        bias = s.attention_bias or s.model_type == "qwen2"
        self.q_proj = nn.Linear(s.hidden_size, s.num_attention_heads * s.head_size, bias=bias)
        self.k_proj = nn.Linear(s.hidden_size, s.num_key_value_heads * s.head_size, bias=bias)
        self.v_proj = nn.Linear(s.hidden_size, s.num_key_value_heads * s.head_size, bias=bias)
        self.o_proj = nn.Linear(s.num_attention_heads * s.head_size, s.hidden_size, bias=s.attention_bias)

    def forward(
        self, x: Tensor, rotary: Tensor, mask: Any, positions: Tensor | None, cache: Cache | None
    ) -> Tensor:
        query, key, value = (
            project(x).unflatten(-1, (-1, self.head_dim))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, L, H, D)
        query, key = rotate(query, rotary), rotate(key, rotary)
        grouped = query.shape[2] != key.shape[2]
        if isinstance(mask, list):  # lengths of documents: one attention each, and no (L, L) matrix
            documents = (x.flatten(0, 1).split(mask) for x in (query, key, value))
            outputs = []
            for document in zip(*documents, strict=True):
                q, k, v = (x.transpose(0, 1)[None] for x in document)
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
                outputs.append(out[0].transpose(0, 1))
            return self.o_proj(torch.cat(outputs).view(*x.shape[:2], -1))
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        if cache is not None:
            key, value = cache.update(self.layer, positions, key, value)  # type: ignore[arg-type]
        if isinstance(mask, BlockMask):
            out = _flex()(query, key, value, block_mask=mask, enable_gqa=grouped)
        else:
            out = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
            )
        return self.o_proj(out.transpose(1, 2).flatten(-2))


class RMSNorm(nn.RMSNorm):
    """torch's, but twice as fast in float32 on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.rsqrt(norm * norm / x.shape[-1] + self.eps) * self.weight


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, s: ModelSettings):
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.up_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.down_proj = nn.Linear(s.intermediate_size, s.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One layer: attention and feed-forward, each after a norm and added to its input."""

    def __init__(self, s: ModelSettings, layer: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.self_attn = Attention(s, layer)
        self.mlp = FeedForward(s)
        self.input_layernorm = RMSNorm(s.hidden_size, eps=s.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(s.hidden_size, eps=s.rms_norm_eps)

    def forward(
        self, x: Tensor, rotary: Tensor, mask: Any, positions: Tensor | None, cache: Cache | None
    ) -> Tensor:
        attention = self.self_attn(self.input_layernorm(x), rotary, mask, positions, cache)
        x = x + F.dropout(attention, self.dropout, self.training)
        change = self.mlp(self.post_attention_layernorm(x))
        return x + F.dropout(change, self.dropout, self.training)


class Decoder(nn.Module):
    """Embeddings, layers, last norm: Hugging Face's `model`."""

    def __init__(self, s: ModelSettings, dropout: float):
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocab_size, s.hidden_size)
        self.layers = nn.ModuleList(Block(s, layer, dropout) for layer in range(s.num_hidden_layers))
        self.norm = RMSNorm(s.hidden_size, eps=s.rms_norm_eps)


class Model(nn.Module):
    """A Llama-shaped language model over text, marker, unit, pitch and style tokens alike.

    Args:
        settings: the shape.
        dropout: probability of dropping an output of a residual branch while training (Llama has none).
        recompute: keep no activations inside a layer, compute them again in the backward pass (checkpointing).

    >>> model = Model(preset("nano", 128))
    >>> model(torch.zeros(1, 7, dtype=torch.long)).shape
    torch.Size([1, 7, 128])
    """

    def __init__(self, settings: ModelSettings, *, dropout: float = 0.0, recompute: bool = False):
        super().__init__()
        self.settings, self.dropout, self.recompute = settings, dropout, recompute
        device = torch.get_default_device()
        with torch.device("meta"):  # the weights are initialised once, below
            self.model = Decoder(settings, dropout)
            self.lm_head = nn.Linear(settings.hidden_size, settings.vocab_size, bias=False)
        self.tie()
        if device.type != "meta":
            self.to_empty(device=device)
            self.tie()
            self.initialise()

    def tie(self) -> None:
        """Share the embedding's weight with the head, if the settings tie them."""
        if self.settings.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def initialise(self) -> None:
        """Initialise all weights from torch's generator: normal, the two outputs of a layer scaled down by depth.

        A parameter that is sharded over processes gets its part of the same numbers, whatever their number.
        """
        scale = self.settings.initializer_range
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                shrink = math.sqrt(2 * self.settings.num_hidden_layers) if deep else 1.0
                with initialised(parameter) as whole:
                    nn.init.normal_(whole, std=scale / shrink)
            else:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        targets: Tensor | None = None,
        chunk: int = 0,
        cache: Cache | None = None,
        last: Tensor | None = None,
    ) -> Tensor:
        """Logits, or the loss of every token.

        Args:
            tokens: (B, L) int64 ids.
            positions: (B, L) int64, position of each token in its document; None: 0 .. L - 1.
            documents: (B, L) int, equal for tokens of one document, which attend only to each other; None: one per row.
            targets: (B, L) int64, the id to predict at each position, or IGNORE.
            chunk: with targets, compute logits for this many positions at a time (saves memory); 0: all at once.
            cache: keys and values of earlier tokens, extended by this call; needs positions.
            last: (B,) int64, return only the logits of this position of each sequence.

        Returns:
            (B, L, V) logits, (B, V) with `last`; with targets (B, L) float32 losses in nats, 0 where ignored.
        """
        batch, length = tokens.shape
        if positions is None:
            positions = torch.arange(length, device=tokens.device).expand(batch, length)
        if cache is not None:
            cache.end = max(cache.end, int(positions.max()) + 1)
            mask = torch.arange(cache.end, device=tokens.device) <= positions[:, None, :, None]
        else:
            mask = document_mask(documents) if documents is not None else None  # type: ignore[assignment]
        x = self.model.embed_tokens(tokens)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # the residual stream too: half the traffic
        rotary = rotary_angles(positions, self.settings).to(x.dtype)
        for layer in self.model.layers:
            if self.recompute and self.training:
                x = checkpoint(layer, x, rotary, mask, positions, cache, use_reentrant=False)
            else:
                x = layer(x, rotary, mask, positions, cache)
        x = self.model.norm(x)
        if last is not None:
            return self.lm_head(x[torch.arange(batch, device=x.device), last])
        if targets is None:
            return self.lm_head(x)
        losses = self._losses(x.flatten(0, 1), targets.flatten(), chunk or targets.numel())
        return losses.view_as(targets)

    def compile_parts(self) -> None:
        """Compile what a GPU computes often: the layers, and the loss, which then reads its logits once."""
        for layer in self.model.layers:
            layer.compile()
        self._cross_entropy = torch.compile(self._cross_entropy)  # type: ignore[method-assign]

    def _cross_entropy(self, x: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.lm_head(x).float(), targets, ignore_index=IGNORE, reduction="none")

    def _losses(self, x: Tensor, targets: Tensor, chunk: int) -> Tensor:
        if chunk >= len(x):
            return self._cross_entropy(x, targets)
        # logits are dropped and computed again in the backward pass
        pieces = zip(x.split(chunk), targets.split(chunk), strict=True)
        return torch.cat([checkpoint(self._cross_entropy, *piece, use_reentrant=False) for piece in pieces])

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    def save_pretrained(
        self, directory: str | Path, *, weights: Mapping[str, Tensor] | None = None, **config: Any
    ) -> None:
        """Write model.safetensors and config.json (with `config` added), each complete or not at all.

        `weights` are this model's, if they have been gathered already (`weights()`).
        """
        directory = files.to_path(directory)
        write_weights(directory, self.weights() if weights is None else weights)
        write_config(directory, self.settings, **config)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        vocabulary: Any = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        dropout: float = 0.0,
        recompute: bool = False,
    ) -> "Model":
        """Open a Hugging Face directory of a Llama-family model, or its URL.

        Args:
            vocabulary: the Vocabulary of its embeddings; a model with another number of rows is refused.

        Raises:
            ValueError: no such model, an unsupported kind, a truncated file, a tensor missing or of another shape;
                one line that names the file.
        """
        directory = files.to_path(directory)
        settings = read_settings(directory, vocabulary)
        with torch.device("meta"):
            model = cls(settings, dropout=dropout, recompute=recompute)
        expected = model.own_state()
        loaded = {}
        for path, name, tensor in read_weights(directory):
            if check_tensor(path, name, tuple(tensor.shape), expected):
                loaded[name] = tensor.to(device=device, dtype=dtype)
        check_complete(directory, expected, loaded)
        model.load_state_dict(loaded, strict=not settings.tie_word_embeddings, assign=True)
        model.tie()
        return model.requires_grad_(True)

    def weights(self, *, keep: bool = True) -> dict[str, Tensor]:
        """Name -> tensor in Hugging Face's form: whole, on the CPU, adapters merged, a tied head only as the embedding.

        If the model is sharded, all processes call this; those with keep=False get nothing. One tensor at a time is
        whole on a device.
        """
        weights = {}
        for name, tensor in self.own_state().items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if keep:
                weights[name] = whole.detach().cpu().contiguous()
        merge(self, weights)
        return weights

    def own_state(self) -> dict[str, Tensor]:
        """The state without a tied head, which is the embedding."""
        state = self.state_dict()
        if self.settings.tie_word_embeddings:
            del state["lm_head.weight"]
        return state


def document_mask(documents: Tensor) -> list[int] | BlockMask:
    """The mask of packed (B, L) documents: a token attends to itself and to earlier tokens of its document."""
    return document_blocks(documents) if documents.device.type == "cuda" else document_lengths(documents)


def document_lengths(documents: Tensor) -> list[int]:
    """Lengths of all documents, row by row.

    >>> document_lengths(torch.tensor([[0, 0, 1], [1, 1, 1]]))
    [2, 1, 3]
    """
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    positions = torch.nonzero(starts.flatten())[:, 0]
    return torch.diff(positions, append=positions.new_tensor([documents.numel()])).tolist()


def document_blocks(documents: Tensor) -> BlockMask:
    """The mask for flex_attention, which skips blocks without any attention."""
    batch, length = documents.shape

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (documents[b, q] == documents[b, k])

    create = _compiled_block_mask() if documents.device.type == "cuda" else create_block_mask
    return create(visible, batch, None, length, length, device=documents.device)


def flops_per_token(settings: ModelSettings, length: int) -> float:
    """Floating-point operations of training per token of a sequence of `length`, without recomputation.

    6 for each weight of a matrix product (the embedding is a look-up), and for causal attention 6 for each layer, head
    dimension and position of the sequence.

    Source: Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, appendix B, with half of its attention: this one is causal.

    >>> f"{flops_per_token(preset('7b', 32_000), 4096):.3g}"
    '4.29e+10'
    """
    s = settings
    heads = s.num_attention_heads * s.head_size
    attention = s.hidden_size * (2 * heads + 2 * s.num_key_value_heads * s.head_size)
    weights = s.num_hidden_layers * (attention + 3 * s.hidden_size * s.intermediate_size)
    return 6.0 * (weights + s.vocab_size * s.hidden_size) + 6.0 * s.num_hidden_layers * heads * length


@functools.cache
def _flex() -> Any:
    """flex_attention, compiled on first use: uncompiled it would build the whole (L, L) matrix."""
    return torch.compile(flex_attention, dynamic=False)


@functools.cache
def _compiled_block_mask() -> Any:
    """create_block_mask, compiled on first use: uncompiled it evaluates every pair of positions in memory."""
    return torch.compile(create_block_mask)


def rotary_angles(positions: Tensor, settings: ModelSettings) -> Tensor:
    """Cosines and sines of RoPE.

    Args:
        positions: (B, L) int.

    Returns:
        (2, B, L, 1, D / 2) float32.

    Source: Su et al. 2021, arXiv:2104.09864; Llama 3.1's stretching of slow angles as in its config.json.
    """
    half = settings.head_size // 2
    steps = torch.arange(half, device=positions.device, dtype=torch.float32) / half
    frequencies = settings.rope_theta**-steps
    if settings.rope_scaling:
        s = settings.rope_scaling
        turns = s["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # in the original context
        keep = (turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
        keep = keep.clamp(0, 1)  # 1: fast, as it was; 0: slow, stretched by the factor
        frequencies = frequencies * (keep + (1 - keep) / s["factor"])
    angles = positions[..., None, None] * frequencies
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate (B, L, H, D) by its angles; coordinate i pairs with i + D / 2, as in Hugging Face's layout."""
    (cosine, sine), (a, b) = rotary, x.chunk(2, -1)
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine), -1)


def check_tensor(path: Path, name: str, shape: tuple[int, ...], expected: Mapping[str, Tensor]) -> bool:
    """Whether a stored tensor belongs to the model; refuse an unknown one and another shape."""
    if name in expected:
        if shape != tuple(expected[name].shape):
            raise ValueError(
                f"{path}: {name} has shape {shape}, config.json needs {tuple(expected[name].shape)}"
            )
        return True
    # old exports hold inv_freq, which follows from the settings; checkpoints hold the optimiser's tensors
    if not name.endswith("rotary_emb.inv_freq") and not name.startswith(TRAINING):
        raise ValueError(f"{path}: unknown tensor {name}, need a model of type llama or qwen2")
    return False


def check_complete(directory: Path, expected: Mapping[str, Tensor], names: Container[str]) -> None:
    """Refuse a model without all its tensors."""
    missing = sorted(name for name in expected if name not in names)
    if missing:
        raise ValueError(f"{directory}: {len(missing)} tensors are missing, the first is {missing[0]}")


def read_settings(directory: Path, vocabulary: Any = None) -> ModelSettings:
    """The settings of a model directory, refused if the model is for another vocabulary."""
    settings, stored = read_config(directory)
    if vocabulary is not None and stored not in (None, vocabulary.hash):
        raise ValueError(
            f"{directory}: was made for vocabulary {stored[:12]}, this one is {vocabulary.hash[:12]}; "
            f"use the vocabulary it was trained with"
        )
    if vocabulary is not None and settings.vocab_size != vocabulary.padded_size:
        raise ValueError(
            f"{directory}: has {settings.vocab_size} rows, the vocabulary {vocabulary.padded_size}; "
            f"run `wordweave add-speech-tokens` first"
        )
    return settings


def read_config(directory: Path) -> tuple[ModelSettings, str | None]:
    """The settings in a Hugging Face directory's config.json, and the hash of our own vocabulary if it has one."""
    path = directory / "config.json"
    if not path.exists():
        raise ValueError(f"{path}: no such file, so {directory} is no model directory")
    config = files.read_record(path)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}  # transformers 5, and before
    if not isinstance(rope, dict):
        raise ValueError(f"{path}: rope_parameters: need an object, got {rope!r}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    config["rope_theta"] = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    config["rope_scaling"] = None if kind == "default" else {"rope_type": kind} | dict(rope)
    config["num_key_value_heads"] = config.get("num_key_value_heads") or config.get("num_attention_heads")
    if config.get("use_sliding_window") or config.get("mlp_bias"):
        raise ValueError(f"{path}: sliding windows and feed-forward biases are not supported")
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"{path}: hidden_act: need 'silu', got {config['hidden_act']!r}")
    table = {f.name: config[f.name] for f in fields(ModelSettings) if config.get(f.name) is not None}
    try:
        return fill(ModelSettings, table), config.get("vocabulary_hash")
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: {error}") from error


def write_config(directory: Path, settings: ModelSettings, **more: Any) -> None:
    """Write config.json for transformers 4 and 5."""
    shape = {name: value for name, value in asdict(settings).items() if (name, value) != ("head_dim", 0)}
    config = shape | {
        "architectures": ["Qwen2ForCausalLM" if settings.model_type == "qwen2" else "LlamaForCausalLM"],
        "hidden_act": "silu",
        "mlp_bias": False,
        "torch_dtype": "float32",
        "rope_parameters": dict(settings.rope_scaling or {"rope_type": "default"})
        | {"rope_theta": settings.rope_theta},
    }
    files.write(directory / "config.json", json.dumps(config | more, indent=2, sort_keys=True).encode())


def read_weights(directory: Path) -> Iterator[tuple[Path, str, Tensor]]:
    """Every (file, name, tensor) of a directory's safetensors: one file, several, or the shards of a checkpoint."""
    if (directory / SHARDS).exists() and not (directory / "model.safetensors").exists():
        yield from read_shards(directory / SHARDS)
        return
    index = directory / "model.safetensors.index.json"
    names = (
        sorted(set(files.read_record(index, "weight_map")["weight_map"].values()))
        if index.exists()
        else ["model.safetensors"]
    )
    for path in (directory / name for name in names):
        try:
            with safe_open(files.local(path), framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (a safetensors file is no dict)
                    yield path, name, file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path}: missing or damaged weights ({error})") from error


def read_shards(folder: Path) -> Iterator[tuple[Path, str, Tensor]]:
    """Every (folder, name, whole tensor) of the model in a sharded checkpoint, put together from its files.

    The header of each file says at which offsets its pieces begin (torch.distributed.checkpoint writes it).
    """
    pieces: dict[str, list[tuple[Any, list[int], list[int]]]] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            file = safe_open(files.local(path), framework="pt")
            offsets = json.loads((file.metadata() or {}).get("DCP_SHARDING_INFO", "{}"))
            for name in file.keys():  # noqa: SIM118
                if not name.startswith(TRAINING):
                    shape = file.get_slice(name).get_shape()
                    offset = offsets.get(name, {}).get("saved_offsets", [0] * len(shape))
                    pieces.setdefault(name, []).append((file, offset, shape))
        for name, parts in pieces.items():
            ends = [[a + b for a, b in zip(offset, shape, strict=True)] for _, offset, shape in parts]
            whole = torch.empty([max(end) for end in zip(*ends, strict=True)])
            for (file, offset, _), end in zip(parts, ends, strict=True):
                whole[tuple(map(slice, offset, end))] = file.get_tensor(name)
            if sum(math.prod(shape) for _, _, shape in parts) != whole.numel():
                raise ValueError(f"{folder}: need all shards of {name}, got {len(parts)}")
            yield folder, name, whole
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder}: missing or damaged weights ({error})") from error


def write_weights(directory: Path, weights: Mapping[str, Tensor], name: str = "model.safetensors") -> None:
    """Write a safetensors file, complete or not at all."""
    path = directory / name
    try:
        with files.writing(path) as temporary:
            save_file(dict(weights), temporary, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        disk = f"the disk of {directory} is full: " if "os error 28" in str(error) else ""
        raise OSError(
            f"{path}: cannot be written ({disk}{getattr(error, 'strerror', None) or error})"
        ) from error
