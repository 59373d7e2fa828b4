# ruff: noqa: E501  # rows of Markdown tables
"""The page docs/evaluation.md: `python -m docs.evaluation_page` writes it; its numbers are the output of the code."""

import tempfile
from pathlib import Path

import numpy as np

from docs.worked_row import harmonic_sound, wrapped

PAGE = Path(__file__).parent / "evaluation.md"
TEXTS = ("the cook was in the kitchen", "he served the soup", "he fed the horse")
COMPARED = {
    "swuggy": "a word with a non-word, as spoken; pairs in and out of LibriSpeech's vocabulary as groups; "
    "voices of a pair are one family",
    "sblimp": "a grammatical sentence with one that is not; types of grammar as groups",
    "tstorycloze": "the ending of a story with that of another story",
    "sstorycloze": "the right ending of a story with the wrong one; also the written test",
    "salmon": "a recording with one whose voice, mood, sex, noise or room changes midway, or does not fit its "
    "words; eight parts as groups",
    "blimp": "a grammatical sentence with one that is not, in writing; 67 paradigms as groups",
    "mmlu": "the letters A to D after a question and examples of its subject (`--shots`)",
    "librispeech": "few-shot: a transcript of speech (word errors), and text read aloud (character and word errors "
    "of a recogniser)",
    "fluent": "few-shot: the intent of a command, exactly",
    "slurp": "few-shot: the intent of a command, exactly",
    "speech-commands": "few-shot: the word of a recording, exactly",
    "expresso": "sentiment of a continuation with that of its prompt (STSP)",
    "emov": "sentiment of a continuation with that of its prompt (STSP)",
    "sentiment": "sentiment of a continuation with that of its prompt (STSP)",
    "intents": "few-shot: the label of a recording, exactly",
}
"""Test set -> what is compared."""


def evaluation_page() -> str:
    """The page."""
    from lm.evaluation.datasets.published import PUBLISHED

    lines = [
        "# Evaluation", "",
        "What each measure compares, where its data come from, and one item worked from the recording to the score. "
        "This page is written by `python -m docs.evaluation_page`.", "",
        "## Published test sets", "",
        "`wordweave testset KIND SOURCE FOLDER` converts your own copy; nothing is downloaded. A copy with another number "
        "of items than published is refused, or with `--partial` marked as such in every result. "
        "`wordweave evaluate BUILD --testset FOLDER` scores it.", "",
        "| set | what is compared | items | licence | where it comes from |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for one in PUBLISHED.values():
        counts = ", ".join(f"{count} in {split}" for split, count in one.counts.items())
        counted = f"{one.counted}: {counts}" if counts else one.counted
        source = "; ".join(filter(None, (one.paper, one.url)))
        cells = (f"`{one.name}`", COMPARED[one.name], counted, one.licence, source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += [
        "",
        "Choices are scored by the sum of log-probabilities and by their mean per token, over the ending alone and over the "
        "whole sequence, with all logits and with those of the other modality left out: `accuracy` in the results holds all "
        "eight, and `--compare` prints the two that the paper prints. Ties within 1e-5 count half. Items of a family "
        "(voices of a pair, twin stories) are averaged first, and intervals are over families.", "",
        *worked_item(), *MEASURES,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def worked_item() -> list[str]:
    """One item from its recordings to its score, with the functions that `wordweave evaluate` uses."""
    import torch

    from lm.evaluation.tasks.choice import is_chosen, sequences
    from lm.evaluation.tasks.likelihood import likelihoods
    from lm.evaluation.testset import Segment, TestItem
    from lm.model import Model, preset
    from shards.stream import merge
    from shards.text import train_bpe
    from shards.vocabulary import Vocabulary
    from units.encode import encode_units
    from units.encoders import bundled_codebook, load_encoder
    from units.quantizers import load_codebook

    encoder, codebook = load_encoder("compact"), load_codebook(bundled_codebook())
    sound = harmonic_sound(3.2)
    waves = [sound[:19_200], sound[19_200:35_200], sound[35_200:]]
    units = encode_units(encoder, codebook, waves)
    names = ["context.wav", "right.wav", "wrong.wav"]
    tokens = {
        name: "".join(merge(own, None, None, unit_rate=encoder.frame_rate))
        for name, own in zip(names, units, strict=True)
    }
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_bpe([" ".join(TEXTS)], Path(folder) / "tokenizer.json", size=280)
    vocabulary = Vocabulary(tokenizer)
    segments = [Segment(text, name) for text, name in zip(TEXTS, names, strict=True)]
    item = TestItem("s-1", (segments[0],), ((segments[1],), (segments[2],)), right=0)
    torch.manual_seed(0)
    model = Model(preset("pico", vocabulary.padded_size)).eval()
    lines = [
        "## One item, worked", "",
        "An item of the task `choose`: a context and two endings, each written and recorded. The sounds are synthetic and the "
        "model has random weights, so the numbers mean nothing; each is what the code gives.", "",
        "**Audio to units** (`units.encode`, `units.deduplicate`). The units of each recording, one per frame:", "",
        "```text",
    ]  # fmt: skip
    for name, wave, own in zip(names, waves, units, strict=True):
        lines += [f"{name}, {len(wave) / 16_000:g} s, {len(own)} frames", wrapped(own), ""]
    lines += ["```", "", "**Units to tokens**: runs of equal units are one token.", "", "```text"]
    lines += [f"{name}: {tokens[name]}" for name in names]
    lines += ["```", "", "**Tokens to ids, and what is scored** (`lm.evaluation.tasks.choice.sequences`). The prompt is BOS, "
              "a marker, the context, and a marker again where the modality changes; only the ids of the ending "
              "are summed for `ending`, all but BOS for `whole`:", "",
              "| direction | ending | prompt ids | ending ids (scored) |", "|---|---|---|---|"]  # fmt: skip
    scored = {}
    for direction in ("T", "S", "T->S", "S->T"):
        pairs = sequences(item, direction, tokens, vocabulary)
        scored[direction] = likelihoods(model, vocabulary, pairs)
        for side, (opening, ending) in zip(("right", "wrong"), pairs, strict=True):
            lines.append(f"| {direction} | {side} | {short(opening)} | {short(ending)} |")
    lines += ["", "**Score**: log-probabilities in nats; the item is right where the right ending has more.", "",
              "| direction | right: sum, mean | wrong: sum, mean | right by sum | by mean |", "|---|---|---|---|---|"]  # fmt: skip
    for direction, (right, wrong) in scored.items():
        sums = [one.ending for one in (right, wrong)]
        means = [one.ending / one.ending_tokens for one in (right, wrong)]
        cells = (f"{total:.1f}, {mean:.2f}" for total, mean in zip(sums, means, strict=True))
        lines.append(
            f"| {direction} | {' | '.join(cells)} | {is_chosen(sums, 0):g} | {is_chosen(means, 0):g} |"
        )
    return [*lines, ""]


def short(ids: list[int], most: int = 8) -> str:
    """Ids, the middle left out."""
    shown = [str(i) for i in ids]
    if len(shown) > most:
        shown = [*shown[: most // 2], "...", *shown[-most // 2 :]]
    return f"{' '.join(shown)} ({len(np.array(ids))})"


MEASURES = """## Units

`wordweave compare ENCODER... --speech MANIFEST` measures features and units on any speech with transcripts or
phones; `--discophon eng-test` on the alignments and items of that benchmark (`audio/`, `alignment/` and `item/` of
its folder, which `--speech` names).

| measure | definition | checked against |
|---|---|---|
| ABX within, across | triphones that differ in the middle phone; frames by angle, units equal or not, aligned by dynamic time warping; averages over contexts, speakers, pairs of phones; at most 10 tokens of a phone, context and speaker (`units/abx.py`) | fastabx 0.9, and every triple one by one |
| PNMI, purities | information of units about phones over the phones' entropy (`units/quality.py`) | scikit-learn |
| phone error, boundary F1, R-value | each unit stands for its commonest phone, labels every 10 ms, tolerance 20 ms (`units/phone_discovery.py`) | discophon's definitions |
| bits per second | entropy of units times their rate | |

A codebook states where its features were taken (tap), the layer and the normalisation; an encoder of another tap,
layer or model is refused.

## Text kept

`wordweave perplexity HELD_OUT.txt BEFORE AFTER` compares models on written text, a document per line: perplexity
per token, its ratio to the first model, and bits per byte. In a study, rows with `start_from` continue a text
model, and the page has a table of what each mixture left of it.

Any text benchmark runs with [lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness) on an
exported model. `--for-harness` gives it a tokenizer that begins text as training does, with BOS, `[Text]` and a
space:

```text
wordweave export-model build/mine/model/best exported --for-harness
lm_eval run --model hf --model_args pretrained=exported,add_bos_token=True --tasks hellaswag,arc_easy,mmlu --output_path harness
wordweave scoreboard harness/*/results_*.json
```

## Generation

`wordweave generation BUILD --testset FOLDER --recogniser COMMAND --text-model FOLDER` continues the spoken
contexts of a test set in speech, makes recordings with the vocoder, writes them down with your recogniser, and
measures the transcripts: GenPPL (perplexity under the text model), auto-BLEU, self-BLEU and VERT
(`lm/evaluation/generation.py`). `wordweave evaluate` with a test set of task `transcribe` and a recogniser gives
character and word errors of text to speech. `wordweave resynthesis` measures what a vocoder keeps: F0 frame error,
style tokens, words, and speaker agreement: how often an output's mean spectrum is nearer to its own recording's
than to another's (chance 50 %).

A measure that is not defined on an input, or lacks a program, has a reason and no number.

## Scoreboard

`wordweave scoreboard [RESULTS...]` prints our numbers beside published ones. `lm/data/scoreboard.json` and
`lm/data/paper.json` hold these with their sources; each line says whether the data are the same. Without files it
shows the bundled encoders.
""".splitlines()


if __name__ == "__main__":
    PAGE.write_text(evaluation_page(), encoding="utf-8")
