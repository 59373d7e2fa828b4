"""HuBERT checkpoints in fairseq's format, read without fairseq and without running anything stored in them.

Two layouts are known: that of Spirit LM (`model_cfg`, `task_cfg`, `model_weight`) and fairseq's own (`cfg` or `args`,
`model`), which also stores objects of fairseq's classes: such an object is replaced by an inert one.
"""

import argparse
import ast
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from units.tensor_files import load_weights_only

FAIRSEQ_CLASS = re.compile(r"(fairseq|omegaconf|examples)(\.\w+)+")
NORMALIZE_EPSILON = 1e-5  # fairseq normalises with torch's layer norm
MAX_CONVOLUTIONS = 32

RENAMED = [  # pattern of fairseq -> name in transformers.HubertModel
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(weight|bias)", r"feature_extractor.conv_layers.\1.conv.\2"),
    (
        r"feature_extractor\.conv_layers\.0\.2\.(weight|bias)",
        r"feature_extractor.conv_layers.0.layer_norm.\1",
    ),
    (
        r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.(weight|bias)",
        r"feature_extractor.conv_layers.\1.layer_norm.\2",
    ),
    (r"layer_norm\.(weight|bias)", r"feature_projection.layer_norm.\1"),
    (r"post_extract_proj\.(weight|bias)", r"feature_projection.projection.\1"),
    (r"encoder\.pos_conv\.0\.(weight_g|weight_v|bias)", r"encoder.pos_conv_embed.conv.\1"),
    (r"encoder\.layer_norm\.(weight|bias)", r"encoder.layer_norm.\1"),
    (r"(encoder\.layers\.\d+)\.self_attn\.(\w_proj|out_proj)\.(weight|bias)", r"\1.attention.\2.\3"),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm\.(weight|bias)", r"\1.layer_norm.\2"),
    (r"(encoder\.layers\.\d+)\.fc1\.(weight|bias)", r"\1.feed_forward.intermediate_dense.\2"),
    (r"(encoder\.layers\.\d+)\.fc2\.(weight|bias)", r"\1.feed_forward.output_dense.\2"),
    (r"(encoder\.layers\.\d+)\.final_layer_norm\.(weight|bias)", r"\1.final_layer_norm.\2"),
]


class Inert:
    """Replaces an object in a checkpoint of a class that is neither installed nor needed."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_fairseq(file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], float | None]:
    """A fairseq HuBERT as Hugging Face configuration and weights.

    Returns:
        Configuration as in `config.json`; weights named as in `transformers.HubertModel`; epsilon of the waveform
        normalisation, or None if the model was trained on raw waveforms.

    Raises:
        ValueError: broken, holds code, or is not a HuBERT; names the file.
    """
    content = load_inert(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file}: need a dict, got {type(content).__name__}")
    if "model_cfg" in content:
        model, task, weights = content["model_cfg"], content.get("task_cfg"), content.get("model_weight")
    else:
        settings = content.get("cfg") or {}
        both = content.get("args") or {}  # older files: one flat namespace for model and task
        model = settings.get("model", both) if isinstance(settings, dict) else settings
        task = settings.get("task", both) if isinstance(settings, dict) else settings
        weights = content.get("model")
    model, task = (vars(s) if isinstance(s, argparse.Namespace) else s for s in (model, task))
    if not isinstance(model, dict) or not isinstance(task, dict | None) or not isinstance(weights, dict):
        raise ValueError(
            f"{file}: need model_cfg, task_cfg and model_weight, or cfg and model, got {sorted(content)}"
        )
    if (
        "conv_feature_layers" not in model
    ):  # of a fine-tuned model, the pre-trained one's settings are nested deeper
        nested = model.get("w2v_args") or {}
        model = nested.get("model", model) if isinstance(nested, dict) else model
    try:
        config = config_from_fairseq(model)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return (
        config,
        rename_weights(weights),
        NORMALIZE_EPSILON if (task or {}).get("normalize", False) else None,
    )


def config_from_fairseq(model: dict[str, Any]) -> dict[str, Any]:
    """The equivalent Hugging Face configuration; defaults as in fairseq's HuBERT.

    >>> config = config_from_fairseq({"conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 3"})
    >>> config["conv_kernel"], config["conv_stride"]
    ([10, 3, 3, 3, 3, 2, 2, 2], [5, 2, 2, 2, 2, 2, 2, 2])
    """
    name = str(model.get("_name", "hubert"))
    if "hubert" not in name:
        raise ValueError(f"need a HuBERT, got a model named {name!r}")
    mode = model.get("extractor_mode", "default")
    mode = getattr(mode, "value", mode)
    if mode not in ("default", "layer_norm"):
        raise ValueError(f"extractor_mode: need 'default' or 'layer_norm', got {mode!r}")
    if model.get("conv_pos_batch_norm", False) or model.get("pos_conv_depth", 1) > 1:
        raise ValueError("the positional convolution: need one with weight norm, others are not supported")
    default = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
    layers = parse_convolutions(model.get("conv_feature_layers", default))
    return {
        "model_type": "hubert",
        "conv_dim": [channels for channels, _, _ in layers],
        "conv_kernel": [kernel for _, kernel, _ in layers],
        "conv_stride": [stride for _, _, stride in layers],
        "conv_bias": model.get("conv_bias", False),
        "feat_extract_norm": "group" if mode == "default" else "layer",
        "num_conv_pos_embeddings": model.get("conv_pos", 128),
        "num_conv_pos_embedding_groups": model.get("conv_pos_groups", 16),
        "num_hidden_layers": model.get("encoder_layers", 12),
        "hidden_size": model.get("encoder_embed_dim", 768),
        "intermediate_size": model.get("encoder_ffn_embed_dim", 3072),
        "num_attention_heads": model.get("encoder_attention_heads", 12),
        "hidden_act": str(
            getattr(model.get("activation_fn", "gelu"), "value", model.get("activation_fn", "gelu"))
        ),
        "do_stable_layer_norm": model.get("layer_norm_first", False),
    }


def parse_convolutions(expression: str | list) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) per convolution, from the Python expression that fairseq keeps; parsed, not run.

    Only lists of triples of integers, `+` and `*` mean something here.

    >>> parse_convolutions("[(512, 10, 5)] + [(512, 3, 2)] * 2")
    [(512, 10, 5), (512, 3, 2), (512, 3, 2)]
    """

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Expression(body=body):
                return value(body)
            case ast.Constant(value=int() as number) if not isinstance(number, bool):
                return number
            case ast.Tuple(elts=parts):
                return tuple(value(part) for part in parts)
            case ast.List(elts=parts):
                return [value(part) for part in parts]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                first, second = value(left), value(right)
                if isinstance(first, list) and isinstance(second, list):
                    return first + second
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                first, second = value(left), value(right)
                if isinstance(first, int):
                    first, second = second, first
                if (
                    isinstance(first, list)
                    and isinstance(second, int)
                    and len(first) * second <= MAX_CONVOLUTIONS
                ):
                    return first * second
        raise ValueError("unknown expression")

    try:
        tree = ast.parse(expression.strip(), mode="eval") if isinstance(expression, str) else None
        layers = value(tree) if tree else [tuple(layer) for layer in expression]
        good = all(isinstance(layer, tuple) and len(layer) == 3 and min(layer) > 0 for layer in layers)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        good = False
    if not good or not 0 < len(layers) <= MAX_CONVOLUTIONS:
        raise ValueError(
            "conv_feature_layers: need lists of (channels, kernel, stride) joined by + and *, "
            f"at most {MAX_CONVOLUTIONS} in all, got {str(expression)[:100]!r}"
        )
    return layers


def rename_weights(weights: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors that transformers has too, under its names; heads and label embeddings are dropped."""
    kept = {}
    for name, tensor in weights.items():
        for prefix in ("w2v_encoder.", "w2v_model."):
            name = name.removeprefix(prefix)
        for pattern, new in RENAMED:
            if re.fullmatch(pattern, name) and isinstance(tensor, torch.Tensor):
                kept[re.sub(pattern, new, name)] = tensor
    return kept


def load_inert(file: Path) -> Any:
    """`torch.load` of tensors, plain containers and, made inert, objects of fairseq's classes."""
    names = {"fairseq.data.dictionary.Dictionary"}
    with suppress(Exception):  # not a zip file, or broken: the loading below reports it
        names |= set(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    # one class for each name, as torch distinguishes them by class
    inert: list[Any] = [
        (type("Inert", (Inert,), {}), name) for name in names if FAIRSEQ_CLASS.fullmatch(name)
    ]
    with torch.serialization.safe_globals([*inert, argparse.Namespace]):
        return load_weights_only(file)
