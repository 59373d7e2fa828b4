"""Published sets in which a model chooses: sWUGGY, sBLIMP, spoken StoryCloze, BLiMP, MMLU."""

import csv
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from lm.evaluation.datasets.archive import Options, Tree
from lm.evaluation.testset import Item, Part

Reader = Callable[[Tree, Options], tuple[str, list[Item]]]
"""Gives the task and the items; the recordings they name are still paths in the tree."""


def paired_gold(folder: str, written: str) -> Reader:
    """sWUGGY and sBLIMP: gold.csv names the recordings of both halves of a pair, in several voices."""

    def read(tree: Tree, options: Options) -> tuple[str, list[Item]]:
        name = tree.one(f"{folder}/{options.split}/gold.csv")
        rows = tree.table(name, "id", "filename", "voice", "correct", written)
        pairs: dict[tuple[str, ...], dict[str, tuple[int, dict[str, str]]]] = defaultdict(dict)
        for number, row in enumerate(rows, start=2):
            group = "/".join(row[column] for column in ("type", "subtype") if row.get(column))
            half = {"1": "right", "0": "wrong"}.get(row["correct"].strip())
            pair = pairs[group, row["id"], row["voice"]]
            if half is None or half in pair:
                raise ValueError(
                    f"{tree.path}/{name}: line {number}: correct: need one 1 and one 0 for pair {row['id']}, voice "
                    f"{row['voice']}, got {row['correct']!r}"
                )
            pair[half] = number, row
        items = []
        for (group, id, voice), pair in pairs.items():
            if len(pair) < 2:
                number, row = next(iter(pair.values()))
                raise ValueError(
                    f"{tree.path}/{name}: line {number}: pair {id}, voice {voice}: half of it is missing "
                    f"({row['filename']} stands alone)"
                )
            family = f"{group}/{id}" if group else id
            choices = []
            for half in ("right", "wrong"):
                number, row = pair[half]
                stem = row["filename"].removesuffix(".wav")
                recording = str(PurePosixPath(name).parent / f"{stem}.wav")
                if recording not in tree:
                    raise ValueError(f"{tree.path}/{name}: line {number}: {recording} is missing")
                choices.append((Part(row[written], recording),))
            band = _band(row["frequency"]) if row.get("frequency") not in (None, "") else group.split("/")[0]
            items.append(
                Item(f"{family}/{voice}", choices=tuple(choices), right=0, family=family, group=band)
            )
        return "choose", items

    return read


def _band(frequency: str) -> str:
    """In or out of the vocabulary of LibriSpeech, as sWUGGY is reported."""
    return "out of vocabulary" if float(frequency) == 0 else "in vocabulary"


_HALF = re.compile(
    r"(?P<id>[^/]+?)[_-](?P<role>correct|incorrect|mutual)\.(?P<form>wav|flac|txt)$", re.IGNORECASE
)


def read_storycloze(tree: Tree, options: Options) -> tuple[str, list[Item]]:
    """Stories with two endings: whole recordings, recordings or text of the parts, or a table."""
    tables = [name for name in tree.names if name.lower().endswith(".csv")]
    if tables:
        return "choose", _story_table(tree, tables)
    stories: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in tree.names:
        match = _HALF.search(name)
        if match:
            form = "text" if match["form"].lower() == "txt" else "audio"
            stories[match["id"]][match["role"].lower()][form] = name
    if not stories and tree.find("*.wav"):
        raise ValueError(
            f"{tree.path}: cannot tell right endings from wrong ones by names such as {tree.find('*.wav')[0]}; "
            f"name them N_correct.wav and N_incorrect.wav"
        )
    several = any("mutual" in story for story in stories.values())
    wanted = ("mutual", "correct", "incorrect") if several else ("correct", "incorrect")
    items = []
    for id in sorted(stories, key=_in_numbers):
        story = stories[id]
        missing = [role for role in wanted if role not in story]
        if missing:
            raise ValueError(f"{tree.path}: story {id}: {id}_{missing[0]} is missing")
        parts = {
            role: Part(tree.text(said["text"]).strip() if "text" in said else None, said.get("audio"))
            for role, said in story.items()
        }
        context = (parts["mutual"],) if several else ()
        items.append(Item(id, context, ((parts["correct"],), (parts["incorrect"],)), 0))
    return "choose", items


def _story_table(tree: Tree, tables: list[str]) -> list[Item]:
    """Stories from a csv: one row for each part of a story, or the written test's one row a story."""
    if len(tables) > 1:
        raise ValueError(f"{tree.path}: need one csv, got {tables[:3]}; name a folder that holds one test")
    rows = tree.table(tables[0])
    if rows and "InputSentence1" in rows[0]:
        items = []
        for number, row in enumerate(rows, start=2):
            context = " ".join(row[f"InputSentence{i}"].strip() for i in range(1, 5))
            endings = [row[f"RandomFifthSentenceQuiz{i}"].strip() for i in (1, 2)]
            if row.get("AnswerRightEnding") not in ("1", "2"):
                raise ValueError(
                    f"{tree.path}/{tables[0]}: line {number}: AnswerRightEnding: need 1 or 2, "
                    f"got {row.get('AnswerRightEnding')!r}"
                )
            right = int(row["AnswerRightEnding"]) - 1
            choices = tuple((Part(ending),) for ending in endings)
            items.append(Item(row["InputStoryid"], (Part(context),), choices, right))
        return items
    rows = tree.table(tables[0], "pair_id", "type", "correctness")
    stories: dict[str, dict[str, Part]] = defaultdict(dict)
    for number, row in enumerate(rows, start=2):
        role = "prompt" if row["type"] == "prompt" else row["correctness"]
        if role not in ("prompt", "correct", "incorrect") or role in stories[row["pair_id"]]:
            raise ValueError(
                f"{tree.path}/{tables[0]}: line {number}: need one prompt, correct and incorrect row for story "
                f"{row['pair_id']}, got another {role!r}"
            )
        stories[row["pair_id"]][role] = Part(
            row.get("text") or None, tree.one(row["path"]) if row.get("path") else None
        )
    items = []
    for id, story in stories.items():
        missing = [role for role in ("prompt", "correct", "incorrect") if role not in story]
        if missing:
            raise ValueError(f"{tree.path}/{tables[0]}: story {id}: its {missing[0]} row is missing")
        items.append(Item(id, (story["prompt"],), ((story["correct"],), (story["incorrect"],)), 0))
    return items


def read_blimp(tree: Tree, options: Options) -> tuple[str, list[Item]]:
    """Pairs of sentences, 67 files of JSON lines or Parquet."""
    items = []
    for name in tree.find("*.jsonl") or tree.find("*.parquet"):
        for number, row in enumerate(_rows(tree, name), start=1):
            try:
                uid, pair = row["UID"], row.get("pairID", row.get("pair_id", number - 1))
                good, bad = row["sentence_good"], row["sentence_bad"]
            except KeyError as error:
                raise ValueError(
                    f"{tree.path}/{name}: line {number}: lacks {error}: half of the pair is missing"
                ) from error
            items.append(Item(f"{uid}/{pair}", choices=((Part(good),), (Part(bad),)), right=0, group=uid))
    return "choose", items


def _rows(tree: Tree, name: str) -> Iterator[dict[str, Any]]:
    """Rows of a file of JSON lines or of Parquet."""
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        try:
            yield from pq.read_table(io.BytesIO(tree.open(name))).to_pylist()
        except (OSError, ValueError) as error:
            raise ValueError(f"{tree.path}/{name}: not Parquet ({error})") from error
        return
    for number, line in enumerate(tree.text(name).splitlines(), start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise ValueError(f"{tree.path}/{name}: line {number}: not JSON ({error})") from error


LETTERS = "ABCD"


@dataclass(frozen=True, slots=True)
class Question:
    """One question of MMLU."""

    subject: str
    text: str
    answers: tuple[str, ...]
    right: int

    def asked(self, *, answered: bool) -> str:
        """As a prompt says it, with the answer or before it."""
        lines = [self.text, *(f"{letter}. {a}" for letter, a in zip(LETTERS, self.answers, strict=True))]
        return "\n".join([*lines, f"Answer: {LETTERS[self.right]}" if answered else "Answer:"])


def read_mmlu(tree: Tree, options: Options) -> tuple[str, list[Item]]:
    """Questions with the examples of their subject before them, in the order of the dev file."""
    tests, shots = (_questions(tree, split) for split in (options.split, "dev"))
    examples: dict[str, list[Question]] = defaultdict(list)
    for question in shots:
        examples[question.subject].append(question)
    items, number = [], Counter[str]()
    for question in tests:
        subject = question.subject
        if len(examples[subject]) < options.shots:
            raise ValueError(
                f"{tree.path}: subject {subject}: need {options.shots} examples in dev, got {len(examples[subject])}"
            )
        title = subject.replace("_", " ")
        said = [
            f"The following are multiple choice questions (with answers) about {title}.",
            *(example.asked(answered=True) for example in examples[subject][: options.shots]),
            question.asked(answered=False),
        ]
        choices = tuple((Part(letter),) for letter in LETTERS)
        context = (Part("\n\n".join(said)),)
        items.append(Item(f"{subject}/{number[subject]}", context, choices, question.right, group=subject))
        number[subject] += 1
    return "choose", items


def _questions(tree: Tree, split: str) -> Iterator[Question]:
    tables = tree.find(f"{split}/*_{split}.csv")
    for name in tables:
        subject = PurePosixPath(name).name.removesuffix(f"_{split}.csv")
        for number, row in enumerate(csv.reader(io.StringIO(tree.text(name))), start=1):
            if len(row) != 6 or row[5].strip() not in LETTERS:
                raise ValueError(
                    f"{tree.path}/{name}: line {number}: need a question, four answers and A, B, C or D, got "
                    f"{len(row)} cells"
                )
            yield Question(
                subject, row[0].strip(), tuple(a.strip() for a in row[1:5]), LETTERS.index(row[5].strip())
            )
    if tables:
        return
    for name in tree.find(f"all/{split}-*.parquet", f"{split}-*.parquet"):
        if "auxiliary_train" in name:
            continue
        for number, found in enumerate(_rows(tree, name), start=1):
            answers = tuple(str(a).strip() for a in found.get("choices") or ())
            if len(answers) != 4 or found.get("answer") not in range(4):
                raise ValueError(
                    f"{tree.path}/{name}: row {number}: need four choices and an answer below 4, "
                    f"got {len(answers)} and {found.get('answer')!r}"
                )
            subject = found.get("subject") or PurePosixPath(name).parent.name
            yield Question(subject, found["question"].strip(), answers, int(found["answer"]))


def _in_numbers(text: str) -> tuple[Any, ...]:
    """A sort key that counts: 2 before 10."""
    return tuple(int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", text))
