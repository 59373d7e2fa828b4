"""Add speech-token embeddings to a text model: its own rows keep their bits, and new rows follow them."""

import json
from pathlib import Path

import torch
from torch import Tensor

from corpus import files
from lm.model import read_config, read_weights, write_weights
from shards.vocabulary import Vocabulary

EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


def add_speech_tokens(
    source: str | Path,
    vocabulary: Vocabulary,
    output: str | Path,
    *,
    initialise: str = "random",
    rope_theta: float | None = None,
    seed: int = 0,
) -> Path:
    """Write a copy of a Hugging Face text model with rows for the whole vocabulary, to continue training from.

    Rows [0, text_size) of the embedding, and of the head where it is not tied, are the source's. Rows up to
    padded_size are new; in the source they were its own padding.

    Args:
        source: directory of a Llama-family model whose tokenizer is the vocabulary's.
        output: directory to write; the vocabulary, and its hash in config.json, are added.
        initialise: "random": new rows from N(0, initializer_range), as in Spirit LM (its scale is not published);
            "covariance": from the normal distribution of the text rows.
        rope_theta: base of rotary positions (Spirit LM changed 10,000 to 100,000); None: the source's.

    Returns:
        The output directory.

    Raises:
        ValueError: the source is no such model, or has fewer rows than the tokenizer has ids.
    """
    source, output = files.to_path(source), files.to_path(output)
    settings, stored = read_config(source)
    if initialise not in ("random", "covariance"):
        raise ValueError(f"initialise: need 'random' or 'covariance', got {initialise!r}")
    if stored is not None:
        raise ValueError(
            f"{source}: has speech rows already, of vocabulary {stored[:12]}; start from a text model"
        )
    if settings.vocab_size < vocabulary.text_size:
        raise ValueError(
            f"{source}: has {settings.vocab_size} rows, the tokenizer {vocabulary.text_size} ids; "
            f"make the vocabulary with the model's own tokenizer"
        )
    if source.resolve() == output.resolve():
        raise ValueError(f"{output}: is the source itself; name another folder")
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for _, name, tensor in read_weights(source):
        if name in EMBEDDINGS:
            text = tensor[: vocabulary.text_size]
            count = vocabulary.padded_size - vocabulary.text_size
            scale = None if initialise == "covariance" else settings.initializer_range
            weights[name] = torch.cat((text, new_rows(text, count, scale, generator)))
        else:
            weights[name] = tensor
    config = files.read_record(source / "config.json")
    config |= {"vocab_size": vocabulary.padded_size, "vocabulary_hash": vocabulary.hash}
    if rope_theta is not None:
        config["rope_theta"] = rope_theta
        if config.get("rope_parameters"):
            config["rope_parameters"] |= {"rope_theta": rope_theta}
    write_weights(output, weights)
    vocabulary.save(output)
    files.write(output / "config.json", json.dumps(config, indent=2, sort_keys=True).encode())
    return output


def new_rows(text: Tensor, count: int, scale: float | None, generator: torch.Generator) -> Tensor:
    """Random rows for (V, D) `text`: N(0, scale), or with scale None the normal distribution of its rows.

    >>> new_rows(torch.ones(3, 2, dtype=torch.bfloat16), 4, 0.02, torch.Generator()).shape
    torch.Size([4, 2])
    """
    noise = torch.randn(count, text.shape[1], generator=generator, dtype=torch.float64)
    if scale is not None:
        return (noise * scale).to(text.dtype)
    rows = text.double()
    mean, covariance = rows.mean(0), torch.cov(rows.T)
    # with fewer rows than columns some eigenvalues are 0, which Cholesky refuses
    values, vectors = torch.linalg.eigh(covariance)
    return (mean + noise @ (vectors * values.clamp(min=0).sqrt()).T).to(text.dtype)
