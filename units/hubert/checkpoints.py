"""Reading third-party HuBERT and wav2vec2 checkpoints, without running any code that might be stored in them."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from corpus.records import SAMPLE_RATE
from units.hubert.fairseq import read_fairseq
from units.hubert.settings import HubertSettings
from units.tensor_files import load_weights_only, read_safetensors

NORMALIZE_EPSILON = 1e-7  # of transformers' feature extractor
NUMBERS = {  # of a configuration: minimum and maximum
    "hidden_size": (1, 65_536),
    "intermediate_size": (1, 1_048_576),
    "num_hidden_layers": (0, 1_000),
    "num_attention_heads": (1, 65_536),
    "num_conv_pos_embeddings": (1, 65_536),
    "num_conv_pos_embedding_groups": (1, 65_536),
}
MODEL_TYPES = ("hubert", "wav2vec2")  # the same network, trained in two ways
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def read_hubert(
    name_or_path: str | Path, layer: int | None = None
) -> tuple[HubertSettings, dict[str, torch.Tensor]]:
    """Settings and weights of a HuBERT.

    Args:
        name_or_path: one of
            a directory in Hugging Face format, with `config.json` and `model.safetensors` (preferred; also in shards)
            or `pytorch_model.bin`;
            the name of such a model on the hub (`HF_HOME`, `HF_HUB_OFFLINE`, ... decide where it is looked for);
            a fairseq checkpoint, a file `*.pt`, such as Spirit LM's `mhubert_base_25hz.pt`;
            a bundle of torchaudio, such as `torchaudio:HUBERT_BASE`.
        layer: weights of transformer blocks from here on are not needed.

    Returns:
        The settings and the float32 weights, named as in `transformers.HubertModel`, with the weight norm of the
        positional convolution multiplied out.

    Raises:
        ValueError: no such model, not a HuBERT, or a file is missing, broken or incomplete; names the file.
    """
    name = str(name_or_path)
    if name.startswith("torchaudio:"):
        config, weights, normalize = read_bundle(name.removeprefix("torchaudio:"))
        return validate(name, config, normalize, layer, lambda _: weights)
    if Path(name).suffix == ".pt":
        config, weights, normalize = read_fairseq(Path(name))
        return validate(name, config, normalize, layer, lambda _: weights)
    folder = find_folder(name)
    config = read_json(folder / "config.json")
    if config.get("model_type") not in MODEL_TYPES:
        raise ValueError(
            f"{folder / 'config.json'}: need model_type {' or '.join(map(repr, MODEL_TYPES))}, "
            f"got {config.get('model_type')!r}"
        )
    preprocessor = folder / "preprocessor_config.json"
    given = read_json(preprocessor) if preprocessor.exists() else {"do_normalize": False}
    normalized, rate = given.get("do_normalize", True), given.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise ValueError(f"{preprocessor}: need sampling_rate {SAMPLE_RATE}, got {rate!r}")
    return validate(
        str(folder), config, NORMALIZE_EPSILON if normalized else None, layer, partial(read_weights, folder)
    )


def validate(
    source: str,
    config: dict[str, Any],
    normalize: float | None,
    layer: int | None,
    read: Callable[[list[str]], dict[str, torch.Tensor]],
) -> tuple[HubertSettings, dict[str, torch.Tensor]]:
    """Settings and weights, if they are whole and fit each other; `read` gives what it has of the needed weights."""
    try:
        settings = settings_from_config(config, normalize)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    needed = weight_names(config, settings.layers if layer is None else min(layer, settings.layers))
    weights = read(needed)
    check_weights(source, weights, needed)
    weights = {name: weights[name].float() for name in needed}
    shapes = expected_shapes(config)
    for name, tensor in weights.items():
        shape = shapes.get(re.sub(r"(encoder\.layers)\.\d+\.", r"\1.*.", name))
        if shape is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{source}: weight {name}: need shape {shape} by its settings, got {tuple(tensor.shape)}"
            )
    return settings, without_weight_norm(weights)


def check_weights(source: str, weights: dict[str, torch.Tensor], needed: list[str]) -> None:
    """Refuse weights that are not all there, or not finite numbers."""
    missing = [name for name in needed if name not in weights]
    if missing:
        raise ValueError(
            f"{source}: need all weights of its configuration, {len(missing)} missing: {missing[0]}, ..."
        )
    for name in needed:
        if not weights[name].is_floating_point() or not weights[name].isfinite().all():
            raise ValueError(
                f"{source}: weight {name}: need finite floating point numbers, "
                f"got {weights[name].dtype} with NaN, infinity or integers"
            )


def find_folder(name_or_path: str) -> Path:
    """The directory itself, or where the hub's cache holds the model of that name."""
    if not name_or_path:
        raise ValueError("encoder: need a name or a path, got ''")
    path = Path(name_or_path)
    if path.is_dir():
        return path
    if path.exists() or not HUB_NAME.fullmatch(name_or_path):
        raise ValueError(
            f"{name_or_path}: need a directory in Hugging Face format or a model name of the hub"
        )
    from huggingface_hub import snapshot_download

    settings = ["config.json", "preprocessor_config.json"]
    try:
        folder = Path(snapshot_download(name_or_path, allow_patterns=[*settings, "model*.safetensors*"]))
        if not list(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(name_or_path, allow_patterns=[*settings, "pytorch_model.bin"]))
    except (OSError, ValueError) as error:  # all errors of huggingface_hub are one of them
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{name_or_path}: neither a directory nor a model that could be downloaded from the hub: {reason}"
        ) from error
    return folder


def settings_from_config(config: dict[str, Any], normalize: float | None) -> HubertSettings:
    """Settings from a transformers `HubertConfig`; its defaults are those of hubert-base."""
    check_config(config)
    if config.get("adapter_attn_dim") is not None:
        raise ValueError(
            f"adapter_attn_dim: need null, adapters are not supported, got {config['adapter_attn_dim']}"
        )
    return HubertSettings(
        conv_kernel=tuple(config.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))),
        conv_stride=tuple(config.get("conv_stride", (5, 2, 2, 2, 2, 2, 2))),
        conv_norm=config.get("feat_extract_norm", "group"),
        conv_activation=config.get("feat_extract_activation", "gelu"),
        projection_norm=config.get("feat_proj_layer_norm", True),
        position_kernel=config.get("num_conv_pos_embeddings", 128),
        position_groups=config.get("num_conv_pos_embedding_groups", 16),
        position_batch_norm=config.get("conv_pos_batch_norm", False),
        layers=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 12),
        activation=config.get("hidden_act", "gelu"),
        pre_norm=config.get("do_stable_layer_norm", False),
        epsilon=config.get("layer_norm_eps", 1e-5),
        normalize=normalize,
    )


def check_config(config: dict[str, Any]) -> None:
    """Refuse numbers of another type or out of range, before they decide how much memory is used.

    >>> check_config({"hidden_size": 768, "num_attention_heads": 7})
    Traceback (most recent call last):
    ...
    ValueError: num_attention_heads: need a divisor of hidden_size 768, got 7
    """
    for name, (minimum, maximum) in NUMBERS.items():
        value = config.get(name, minimum)
        if type(value) is not int or not minimum <= value <= maximum:
            raise ValueError(f"{name}: need an integer from {minimum} to {maximum}, got {value!r}")
    for name in ("conv_dim", "conv_kernel", "conv_stride"):
        values = config.get(name, [1])
        whole = isinstance(values, list | tuple) and all(type(x) is int and 0 < x <= 65_536 for x in values)
        if not whole or not 0 < len(values) <= 32:
            raise ValueError(f"{name}: need 1 to 32 integers of at least 1, got {str(values)[:100]}")
    if len({len(config.get(name, range(7))) for name in ("conv_dim", "conv_kernel", "conv_stride")}) > 1:
        raise ValueError("conv_dim, conv_kernel, conv_stride: need equal lengths")
    epsilon = config.get("layer_norm_eps", 1e-5)
    if not isinstance(epsilon, int | float) or not 0 <= epsilon < 1:
        raise ValueError(f"layer_norm_eps: need a number from 0 to 1, got {epsilon!r}")
    width = config.get("hidden_size", 768)
    for name, usual in (("num_attention_heads", 12), ("num_conv_pos_embedding_groups", 16)):
        if width % config.get(name, usual):
            raise ValueError(f"{name}: need a divisor of hidden_size {width}, got {config.get(name, usual)}")


def weight_names(config: dict[str, Any], blocks: int) -> list[str]:
    """Names of all weights that the first `blocks` transformer blocks of such a model need."""
    conv = [f"feature_extractor.conv_layers.{i}" for i in range(len(config.get("conv_kernel", range(7))))]
    names = [f"{name}.conv.weight" for name in conv]
    if config.get("conv_bias", False):
        names += [f"{name}.conv.bias" for name in conv]
    pairs = conv if config.get("feat_extract_norm", "group") == "layer" else conv[:1]
    pairs = [f"{name}.layer_norm" for name in pairs]
    if config.get("feat_proj_layer_norm", True):
        pairs.append("feature_projection.layer_norm")
    pairs.append("feature_projection.projection")
    names.append("encoder.pos_conv_embed.conv.bias")
    if config.get("conv_pos_batch_norm", False):
        names += [f"encoder.pos_conv_embed.batch_norm.running_{x}" for x in ("mean", "var")]
        names.append("encoder.pos_conv_embed.conv.weight")
        pairs.append("encoder.pos_conv_embed.batch_norm")
    else:
        names += ["encoder.pos_conv_embed.conv.weight_g", "encoder.pos_conv_embed.conv.weight_v"]
    if not config.get("do_stable_layer_norm", False):
        pairs.append("encoder.layer_norm")
    for i in range(blocks):
        block = f"encoder.layers.{i}"
        pairs += [f"{block}.attention.{x}_proj" for x in ("q", "k", "v", "out")]
        pairs += [f"{block}.layer_norm", f"{block}.final_layer_norm"]
        pairs += [f"{block}.feed_forward.intermediate_dense", f"{block}.feed_forward.output_dense"]
    return names + [f"{name}.{part}" for name in pairs for part in ("weight", "bias")]


def canonical_name(name: str) -> str:
    """A weight's name without the prefix of task models and with the one spelling of weight norm that we use."""
    name = name.removeprefix("hubert.").removeprefix("wav2vec2.")
    name = name.replace("conv.parametrizations.weight.original0", "conv.weight_g")
    return name.replace("conv.parametrizations.weight.original1", "conv.weight_v")


def read_weights(
    folder: Path, needed: list[str], canonical: Callable[[str], str] = canonical_name
) -> dict[str, torch.Tensor]:
    """What a Hugging Face directory has of the needed weights; `canonical` gives the name of a stored one."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        files = [folder / "model.safetensors"]
    elif index.exists():
        files = sorted({folder / file for file in read_json(index).get("weight_map", {}).values()})
    elif (folder / "pytorch_model.bin").exists():
        files = [folder / "pytorch_model.bin"]
    else:
        raise ValueError(f"{folder}: need model.safetensors or pytorch_model.bin, got neither")
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        if file.suffix == ".safetensors":
            tensors, _ = read_safetensors(file, lambda name: canonical(name) in needed)
        else:
            tensors = load_weights_only(file)
            if not isinstance(tensors, dict):
                raise ValueError(f"{file}: need a dict of tensors, got {type(tensors).__name__}")
        named = {canonical(name): tensor for name, tensor in tensors.items()}
        weights |= {name: named[name] for name in needed if isinstance(named.get(name), torch.Tensor)}
    return weights


def without_weight_norm(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights with one plain kernel for the positional convolution."""
    weights = dict(weights)
    name = "encoder.pos_conv_embed.conv.weight"
    if name not in weights:
        magnitude, direction = weights.pop(f"{name}_g"), weights.pop(f"{name}_v")
        weights[name] = direction * (magnitude / direction.norm(dim=(0, 1), keepdim=True))
    return weights


def read_bundle(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], float | None]:
    """A HuBERT among torchaudio's bundles; its weights are in torch's cache (`TORCH_HOME`) or on the network."""
    import torchaudio

    names = sorted(n for n in dir(torchaudio.pipelines) if n.startswith("HUBERT"))
    if name not in names:
        raise ValueError(f"torchaudio:{name}: need one of {names}")
    bundle = getattr(torchaudio.pipelines, name)
    try:
        model = bundle.get_model(dl_kwargs={"weights_only": True, "progress": False})
    except (OSError, RuntimeError, UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"torchaudio:{name}: its weights are not in torch's cache and could not be downloaded: {reason}"
        ) from error
    params = bundle._params
    convolutions = params["extractor_conv_layer_config"]
    config = {
        "conv_dim": [channels for channels, _, _ in convolutions],
        "conv_kernel": [kernel for _, kernel, _ in convolutions],
        "conv_stride": [stride for _, _, stride in convolutions],
        "conv_bias": params["extractor_conv_bias"],
        "feat_extract_norm": "group" if params["extractor_mode"] == "group_norm" else "layer",
        "num_conv_pos_embeddings": params["encoder_pos_conv_kernel"],
        "num_conv_pos_embedding_groups": params["encoder_pos_conv_groups"],
        "num_hidden_layers": params["encoder_num_layers"],
        "hidden_size": params["encoder_embed_dim"],
        "intermediate_size": params["encoder_ff_interm_features"],
        "num_attention_heads": params["encoder_num_heads"],
        "do_stable_layer_norm": params["encoder_layer_norm_first"],
    }
    weights = {}
    for name, tensor in (
        getattr(model, "model", model).state_dict().items()
    ):  # `.model`: inside a normalising wrapper
        name = name.replace("encoder.feature_projection.", "feature_projection.")
        weights[canonical_name(name.replace("encoder.transformer.", "encoder."))] = tensor
    return config, weights, 1e-5 if bundle._normalize_waveform else None


def expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices that follow from the sizes of a configuration."""
    width, inner = config.get("hidden_size", 768), config.get("intermediate_size", 3072)
    kernels = config.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))
    channels = [1, *config.get("conv_dim", [512] * len(kernels))]
    taps, groups = config.get("num_conv_pos_embeddings", 128), config.get("num_conv_pos_embedding_groups", 16)
    shapes: dict[str, tuple[int, ...]] = {
        f"feature_extractor.conv_layers.{i}.conv.weight": (channels[i + 1], channels[i], kernel)
        for i, kernel in enumerate(kernels)
    }
    shapes["feature_projection.projection.weight"] = (width, channels[-1])
    for x in ("weight", "weight_v"):
        shapes[f"encoder.pos_conv_embed.conv.{x}"] = (width, width // groups, taps)
    for x in ("q", "k", "v", "out"):
        shapes[f"encoder.layers.*.attention.{x}_proj.weight"] = (width, width)
    shapes["encoder.layers.*.feed_forward.intermediate_dense.weight"] = (inner, width)
    shapes["encoder.layers.*.feed_forward.output_dense.weight"] = (width, inner)
    return shapes


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, or ValueError naming the file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file}: need this file, got: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{file}: need JSON, got: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: need a JSON object, got {type(content).__name__}")
    return content
