"""Continue prompts of text and speech tokens, in a given modality.

A prompt is a list of parts, each ("text", "as it is written") or ("speech", "[Hu3][Hu71]"). The allowed tokens are a
mask over the vocabulary, so the modality of the output is guaranteed, even for an untrained model.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corpus import files
from lm.model import Cache, Model
from shards.vocabulary import KINDS, Vocabulary

SPOKEN = ("unit", "pitch", "style")


def load(directory: str | Path, *, device: str | torch.device = "cpu") -> tuple[Model, Vocabulary]:
    """A trained model and its vocabulary, from a checkpoint, `best/` of a run, or an export.

    Raises:
        ValueError: either is missing or damaged, or they do not match.
    """
    directory = files.to_path(directory)
    folder = directory / "vocabulary"  # in an export tokenizer.json is that of transformers
    vocabulary = Vocabulary.load(folder if folder.is_dir() else directory)
    return Model.from_pretrained(directory, vocabulary=vocabulary, device=device).eval(), vocabulary


def prompt(
    parts: Sequence[tuple[str, str]],
    vocabulary: Vocabulary,
    output: str | None = None,
    *,
    task_markers: bool = False,
) -> list[int]:
    """Ids of a prompt: BOS, a marker before each part whose modality differs from the one before, the parts.

    Args:
        parts: ("text", words) or ("speech", unit names as one string); none at all is allowed.
        output: "text" or "speech" appends that marker where the last part is of the other modality; None appends none.
        task_markers: prompt for a transcript or a reading as strategy `concatenated` trains them: where the prompt
            changes to the modality of the output, the marker is `[ASR]` before text, `[TTS]` before speech. Pairs
            before the last part are examples.

    Raises:
        ValueError: unknown modality, a speech part that is not only unit, pitch and style names, or task markers
            without an output, without a part of the other modality at the end, or without ones in the vocabulary.

    Source: the prompt rules of Spirit LM (Nguyen et al. 2024, arXiv:2402.05755), sections 4.1 and appendix B.
    """
    markers = {"text": vocabulary.text_marker, "speech": vocabulary.speech_marker}
    for modality in [modality for modality, _ in parts] + [output] * (output is not None):
        if modality not in markers:
            raise ValueError(f"modality: need 'text' or 'speech', got {modality!r}")
    if task_markers and not vocabulary.tasks:
        raise ValueError(
            "task markers: this vocabulary has no [ASR] and [TTS]; build with strategy concatenated"
        )
    if task_markers and (output is None or not parts or parts[-1][0] == output):
        raise ValueError("task markers: need an output modality, and a last part of the other one")
    switches = {"text": vocabulary.asr_marker, "speech": vocabulary.tts_marker}
    ids = [] if vocabulary.bos is None else [vocabulary.bos]
    last = None
    for modality, content in [*parts, *([(output, "")] if output is not None else [])]:
        if modality != last:
            switch = task_markers and last is not None and modality == output
            ids.append((switches if switch else markers)[modality])
        if modality == "text":
            ids += vocabulary.tokenizer.encode(content.strip())
        else:
            ids += speech_ids(content, vocabulary)
        last = modality
    return ids


def speech_ids(names: str, vocabulary: Vocabulary) -> list[int]:
    """Ids of unit, pitch and style names, "[Hu3] [Hu71]", and of nothing else."""
    ids = vocabulary.encode(names.replace(" ", ""))
    for id, kind in zip(ids, kinds(ids, vocabulary), strict=True):
        if kind not in SPOKEN:
            name = vocabulary.names[id]
            raise ValueError(f"speech prompt: need unit, pitch and style names such as [Hu3], got {name!r}")
    return ids


def kinds(ids: Sequence[int], vocabulary: Vocabulary) -> list[str]:
    """Kind of each id, by name."""
    return [KINDS[code] for code in vocabulary.kind(np.asarray(ids, dtype=np.int64))]


def allowed(vocabulary: Vocabulary, modality: str | None) -> Tensor:
    """The ids that may be generated.

    Text: text ids and EOS. Speech: units, pitch and style. None: these, and the two markers. Never BOS, task markers,
    holes of the tokenizer or padding.

    Returns:
        (padded_size,) bool.
    """
    kinds_of = {"text": ("text",), "speech": SPOKEN, None: ("text", "marker", *SPOKEN)}
    if modality not in kinds_of:
        raise ValueError(f"modality: need 'text', 'speech' or None, got {modality!r}")
    codes = [KINDS.index(kind) for kind in kinds_of[modality]]
    mask = np.isin(vocabulary.kind(np.arange(vocabulary.padded_size)), codes)
    mask[[i for i, piece in enumerate(vocabulary.tokenizer.pieces) if piece is None]] = False
    if vocabulary.bos is not None and vocabulary.bos != vocabulary.eos:
        mask[vocabulary.bos] = False
    return torch.from_numpy(mask)


def generate(model: Model, vocabulary: Vocabulary, prompt_ids: Sequence[int], **choices: Any) -> list[int]:
    """Continue one prompt; `choices` and errors as in `generate_batch`."""
    return generate_batch(model, vocabulary, [prompt_ids], **choices)[0]


@torch.no_grad()
def generate_batch(
    model: Model,
    vocabulary: Vocabulary,
    prompts: Sequence[Sequence[int]],
    *,
    modality: str | None = None,
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    generator: torch.Generator | None = None,
    stops: Sequence[int] = (),
    until: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Continue several prompts at once.

    Args:
        prompts: ids of each; their lengths may differ.
        modality: "text", "speech", or None for either, markers included.
        temperature: 0 takes the likeliest token.
        top_p, top_k: sample from the likeliest tokens that hold this much probability, or from this number of them; 1.0
            and 0: from all.
        repetition_penalty: values above 1 make tokens of the prompt and the answer less likely.
        generator: source of randomness, on the model's device; None: torch's own.
        stops: ids that are allowed in any modality and end an answer, such as the marker of the other one.
        until: whether an answer, as far as it is generated, is complete.

    Returns:
        The new ids of each, without the prompt and without EOS or the id that ended it.

    Raises:
        ValueError: an empty prompt, an id outside the vocabulary, more positions than the model has, or a vocabulary of
            another size than the model's.
    """
    rows = [[int(id) for id in row] for row in prompts]
    check(rows, model, vocabulary, temperature, top_p, max_new_tokens)
    device, batch = model.device, len(rows)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    longest = int(lengths.max())
    tokens = torch.zeros(batch, longest, dtype=torch.long, device=device)
    seen = torch.zeros(batch, vocabulary.padded_size, dtype=torch.bool, device=device)
    for b, row in enumerate(rows):
        tokens[b, : len(row)] = torch.tensor(row)
        seen[b, row] = True
    banned = ~allowed(vocabulary, modality).to(device)
    banned[list(stops)] = False
    ends = [id for id in (vocabulary.eos,) if id is not None and not banned[id]]
    last = torch.tensor([*ends, *stops], dtype=torch.long, device=device)

    cache = Cache(model, batch, longest + max_new_tokens)
    positions = torch.arange(longest, device=device).expand(batch, longest)
    logits = model(tokens, positions, cache=cache, last=lengths - 1)
    answers: list[list[int]] = [[] for _ in rows]
    done = torch.zeros(batch, dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        if repetition_penalty != 1.0:
            logits = torch.where(
                seen,
                torch.where(logits > 0, logits / repetition_penalty, logits * repetition_penalty),
                logits,
            )
        chosen = choose(logits.masked_fill(banned, -torch.inf), temperature, top_p, top_k, generator)
        seen[torch.arange(batch, device=device), chosen] = True
        done |= torch.isin(chosen, last)
        for answer, id, over in zip(answers, chosen.tolist(), done.tolist(), strict=True):
            if not over:
                answer.append(id)
        if until is not None:
            done |= torch.tensor([until(answer) for answer in answers], device=device)
        if bool(done.all()) or step == max_new_tokens - 1:
            break
        logits = model(chosen[:, None], (lengths + step)[:, None], cache=cache)[:, 0]
    return answers


def choose(
    logits: Tensor, temperature: float, top_p: float, top_k: int, generator: torch.Generator | None
) -> Tensor:
    """Sample one id from each row of (B, V) logits -> (B,)."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    if top_k:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        before = (
            probabilities.cumsum(-1) - probabilities
        )  # of the likelier ones: 0 for the first, which is kept
        drop = (before >= top_p).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def check(
    rows: list[list[int]], model: Model, vocabulary: Vocabulary, temperature: float, top_p: float, new: int
) -> None:
    """Refuse prompts and settings that cannot be used."""
    size, most = vocabulary.padded_size, model.settings.max_position_embeddings
    if model.settings.vocab_size != size:
        raise ValueError(
            f"model: has {model.settings.vocab_size} rows, the vocabulary {size}; they do not match"
        )
    for row in rows:
        if not row:
            raise ValueError(
                "prompt: need at least one token; this tokenizer has no BOS, so give some text or speech"
            )
        if not 0 <= min(row) <= max(row) < vocabulary.size:
            raise ValueError(f"prompt: need ids in [0, {vocabulary.size}), got {min(row)} .. {max(row)}")
        if len(row) + new > most:
            raise ValueError(f"prompt: {len(row)} tokens and {new} new ones are more than the model's {most}")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"sampling: need temperature >= 0 and 0 < top_p <= 1, got {temperature} and {top_p}")


def parts(ids: Sequence[int], vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Ids as parts, the inverse of `prompt`: neighbours of one modality together, without markers and BOS."""
    runs: list[tuple[str, list[int]]] = []
    for id, kind in zip(ids, kinds(ids, vocabulary), strict=True):
        modality = "text" if kind == "text" else "speech" if kind in SPOKEN else None
        if modality is None or id in (vocabulary.bos, vocabulary.eos):
            continue
        if not runs or runs[-1][0] != modality:
            runs.append((modality, []))
        runs[-1][1].append(int(id))
    return [
        (
            modality,
            vocabulary.tokenizer.decode(some) if modality == "text" else "".join(vocabulary.decode(some)),
        )
        for modality, some in runs
    ]


def describe(ids: Sequence[int], vocabulary: Vocabulary) -> dict[str, Any]:
    """An answer in three forms: its text, its token string, and the numbers of its units."""
    units = [id - vocabulary.first_unit for id in ids if kinds([id], vocabulary) == ["unit"]]
    text = " ".join(content for modality, content in parts(ids, vocabulary) if modality == "text")
    return {"text": text, "tokens": vocabulary.render(ids).strip(), "units": units}
