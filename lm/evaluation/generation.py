"""How good and how varied spoken continuations are, by their transcripts.

A model continues spoken prompts, a vocoder makes recordings of the continuations, and a recogniser that the user names
writes them down. GenPPL is the perplexity of the transcripts under a text model: low for likely text, also for dull
text. auto-BLEU is high where a continuation repeats itself, self-BLEU where continuations repeat one another, and VERT
is their geometric mean.

Source: Lakhotia et al. 2021 (GSLM), arXiv:2102.01192, section 5.2; BLEU of Papineni et al. 2002, with n-grams of one
and two words and no smoothing.
"""

import math
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm.evaluation.external_tools import transcribe, vocode
from lm.evaluation.intervals import bootstrap
from lm.evaluation.tasks.base import DEFAULTS, TaskOptions
from lm.evaluation.tasks.few_shot import plain
from lm.evaluation.tasks.sentiment_preservation import Stsp, continue_prompts
from lm.evaluation.testset import TestSet, as_prompt
from lm.generate import prompt
from lm.model import Model
from lm.speaker import name_of
from shards.vocabulary import Vocabulary

ORDER = 2
"""Longest n-grams of the BLEU measures."""
PROMPT_UNITS = 75
NEW_TOKENS = 150
MEASURES = ("GenPPL", "auto-BLEU", "self-BLEU", "VERT")
_UNIT = re.compile(r"\[Hu\d+\]")


class UndefinedMeasure(ValueError):
    """A measure that these transcripts do not define."""


def ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """The n-grams of a text with their counts."""
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def auto_bleu(words: Sequence[str], order: int = ORDER) -> float:
    """The share of n-grams that occur more than once in a text, the geometric mean over n = 1 to `order`.

    Raises:
        UndefinedMeasure: the text has fewer than `order` words.

    >>> auto_bleu("the cat saw the cat".split())
    0.6324555320336759
    """
    if len(words) < order:
        raise UndefinedMeasure(f"auto-BLEU: need at least {order} words, got {len(words)}")
    shares = []
    for n in range(1, order + 1):
        counts = ngrams(words, n)
        shares.append(sum(count for count in counts.values() if count > 1) / sum(counts.values()))
    return math.prod(shares) ** (1 / order)


def bleu(words: Sequence[str], references: Sequence[Sequence[str]], order: int = ORDER) -> float:
    """BLEU of a text against references, 0 to 1.

    Raises:
        UndefinedMeasure: the text has fewer than `order` words, or there is no reference.

    >>> round(bleu("the cat sat".split(), ["the cat ran off".split()]), 4)
    0.4137
    """
    if len(words) < order or not references:
        raise UndefinedMeasure(
            f"BLEU: need at least {order} words and a reference, got {len(words)} and {len(references)}"
        )
    precisions = []
    for n in range(1, order + 1):
        counts, most = ngrams(words, n), Counter[tuple[str, ...]]()
        for reference in references:
            most |= ngrams(reference, n)
        precisions.append((counts & most).total() / counts.total())
    closest = min(
        (len(reference) for reference in references), key=lambda size: (abs(size - len(words)), size)
    )
    brevity = math.exp(min(0.0, 1 - closest / len(words)))
    return brevity * math.prod(precisions) ** (1 / order)


def diversity(texts: Sequence[str]) -> dict[str, list[float]]:
    """auto-BLEU, self-BLEU and VERT of transcripts, in per cent: value, low, high (95 % over texts).

    Texts of fewer than two words are left out.

    Raises:
        UndefinedMeasure: fewer than two texts are left.
    """
    words = [split for split in (plain(text).split() for text in texts) if len(split) >= ORDER]
    if len(words) < 2:
        raise UndefinedMeasure(
            f"auto-BLEU, self-BLEU: need 2 transcripts of at least {ORDER} words, got {len(words)} of {len(texts)}"
        )
    auto = np.array([auto_bleu(text) for text in words])
    own = np.array([bleu(text, words[:i] + words[i + 1 :]) for i, text in enumerate(words)])
    ones = np.ones(len(words))
    vert = 100 * math.sqrt(auto.mean() * own.mean())
    bounds = [bootstrap(auto, ones), bootstrap(own, ones)]
    return {
        "auto-BLEU": [100 * float(auto.mean()), *bounds[0]],
        "self-BLEU": [100 * float(own.mean()), *bounds[1]],
        "VERT": [vert, *(math.sqrt(bounds[0][side] * bounds[1][side]) for side in (0, 1))],
    }


def text_model_perplexity(directory: Path, texts: Sequence[str]) -> list[float]:
    """Perplexity per token of texts under a Hugging Face text model: value, low, high (95 % over texts).

    Each text is scored by itself, after BOS where the tokenizer has one.

    Raises:
        ValueError: the model cannot be loaded.
        UndefinedMeasure: no text has a token that something predicts.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            directory, local_files_only=True, dtype=torch.float32
        ).eval()
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory}: need a text model in Hugging Face format, got: {error}") from error
    opening = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    nats, tokens = [], []
    for text in texts:
        ids = opening + tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) < 2:
            continue
        with torch.inference_mode():
            scores = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        nats.append(-float(scores.gather(1, torch.tensor(ids[1:])[:, None]).sum()))
        tokens.append(len(ids) - 1)
    if not tokens:
        raise UndefinedMeasure(f"GenPPL: need a transcript with at least one word, got none of {len(texts)}")
    low, high = bootstrap(np.array(nats), np.array(tokens))
    return [math.exp(sum(nats) / sum(tokens)), math.exp(low / 100), math.exp(high / 100)]


def measure_generation(
    model: Model,
    vocabulary: Vocabulary,
    testset: TestSet,
    speech_tokens: Mapping[str, str],
    *,
    recogniser: str,
    text_model: Path | None = None,
    prompt_units: int = PROMPT_UNITS,
    new_tokens: int = NEW_TOKENS,
    temperature: float = 0.8,
    options: TaskOptions = DEFAULTS,
) -> list[dict[str, Any]]:
    """Continue the spoken contexts of a test set in speech, and measure the transcripts.

    Args:
        speech_tokens: unit names of the test set's recordings.
        recogniser: command, see `lm.evaluation.external_tools`; `options.vocoder` makes the recordings.
        text_model: of GenPPL, a directory in Hugging Face format; None: GenPPL is not run.
        prompt_units: of a context, the first ones; new_tokens: of a continuation, at most.

    Returns:
        JSON-able rows, one for each of MEASURES, as `lm.evaluation.evaluate` writes them; the first has transcripts.
        What is not defined or lacks something has "not_run", the reason, and no number.

    Raises:
        ValueError: no test item has spoken context, a prompt does not fit, or there is no vocoder.
    """
    if options.vocoder is None:
        raise ValueError(f"generation: needs {options.no_vocoder}")
    items = [
        item
        for item in testset.in_split("test")
        if item.context and all(one.has("speech") for one in item.context)
    ]
    if not items:
        raise ValueError(f"{testset.name}: need test items with a spoken context, got none")
    prompts = []
    for item in items:
        spoken = "".join(content for _, content in as_prompt(item.context, "speech", speech_tokens))
        ends = [match.end() for match in _UNIT.finditer(spoken)]
        cut = spoken[: ends[min(prompt_units, len(ends)) - 1]] if ends else spoken
        ids = prompt([("speech", cut)], vocabulary, "speech")
        if len(ids) + new_tokens > model.settings.max_position_embeddings:
            raise ValueError(
                f"{testset.name}: {item.id!r}: need at most the model's {model.settings.max_position_embeddings} "
                f"positions, got {len(ids)} of the prompt and {new_tokens} new ones"
            )
        prompts.append(ids)
    settings = Stsp(temperature=temperature, batch=options.batch, seed=options.seed)
    continuations = continue_prompts(model, vocabulary, prompts, "speech", new_tokens, settings, options.seed)
    transcripts = []
    with tempfile.TemporaryDirectory() as folder:
        for tokens in continuations:
            path = Path(folder) / "continuation.wav"
            if "[Hu" not in tokens:
                transcripts.append("")
                continue
            transcripts.append(plain(transcribe(recogniser, vocode(options.vocoder, tokens, path))))
    common = {
        "testset": testset.name, "task": "generation", "version": testset.version, "direction": "S",
        "items": len(items), "vocoder": name_of(options.vocoder), "recogniser": recogniser,
    }  # fmt: skip
    numbers: dict[str, list[float] | str] = dict.fromkeys(
        MEASURES, "needs a text model, named with --text-model"
    )
    try:
        if text_model is not None:
            numbers["GenPPL"] = text_model_perplexity(text_model, transcripts)
    except UndefinedMeasure as error:
        numbers["GenPPL"] = str(error)
    try:
        numbers |= diversity(transcripts)
    except UndefinedMeasure as error:
        numbers |= dict.fromkeys(MEASURES[1:], str(error))
    rows = []
    for measure, number in numbers.items():
        known = (
            {"not_run": number}
            if isinstance(number, str)
            else dict(zip(("value", "low", "high"), number, strict=True))
        )
        rows.append(common | {"measure": measure} | known)
    answers = zip(items, continuations, transcripts, strict=True)
    rows[0]["answers"] = [
        {"id": one.id, "tokens": tokens, "transcript": text} for one, tokens, text in answers
    ]
    return rows
