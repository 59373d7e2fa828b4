"""Readers of published multiple-choice sets: sWUGGY, sBLIMP, spoken StoryCloze, SALMon, BLiMP, MMLU."""

import csv
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from lm.evaluation.datasets.archive import Archive, Options
from lm.evaluation.testset import Segment, TestItem

Reader = Callable[[Archive, Options], tuple[str, list[TestItem]]]
"""Archive -> the task and the items, whose recordings are still paths in the archive."""


def paired_gold(folder: str, text_column: str) -> Reader:
    """sWUGGY and sBLIMP: gold.csv names the recordings of both halves of a pair, in several voices."""

    def read(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
        name = archive.find_one(f"{folder}/{options.split}/gold.csv")
        rows = archive.read_csv(name, "id", "filename", "voice", "correct", text_column)
        pairs: dict[tuple[str, ...], dict[str, tuple[int, dict[str, str]]]] = defaultdict(dict)
        for number, row in enumerate(rows, start=2):
            group = "/".join(row[column] for column in ("type", "subtype") if row.get(column))
            half = {"1": "right", "0": "wrong"}.get(row["correct"].strip())
            pair = pairs[group, row["id"], row["voice"]]
            if half is None or half in pair:
                raise ValueError(
                    f"{archive.path}/{name}: line {number}: correct: need one 1 and one 0 for pair {row['id']}, voice "
                    f"{row['voice']}, got {row['correct']!r}"
                )
            pair[half] = number, row
        items = []
        for (group, id, voice), pair in pairs.items():
            if len(pair) < 2:
                number, row = next(iter(pair.values()))
                raise ValueError(
                    f"{archive.path}/{name}: line {number}: pair {id}, voice {voice}: half of it is missing "
                    f"(only {row['filename']} is there)"
                )
            family = f"{group}/{id}" if group else id
            choices = []
            for half in ("right", "wrong"):
                number, row = pair[half]
                stem = row["filename"].removesuffix(".wav")
                recording = str(PurePosixPath(name).parent / f"{stem}.wav")
                if recording not in archive:
                    raise ValueError(f"{archive.path}/{name}: line {number}: {recording} is missing")
                choices.append((Segment(row[text_column], recording),))
            band = _band(row["frequency"]) if row.get("frequency") not in (None, "") else group.split("/")[0]
            items.append(
                TestItem(f"{family}/{voice}", choices=tuple(choices), right=0, family=family, group=band)
            )
        return "choose", items

    return read


def _band(frequency: str) -> str:
    """In or out of the vocabulary of LibriSpeech, as sWUGGY is reported."""
    return "out of vocabulary" if float(frequency) == 0 else "in vocabulary"


_HALF = re.compile(
    r"(?P<id>[^/]+?)[_-](?P<role>correct|incorrect|mutual)\.(?P<form>wav|flac|txt)$", re.IGNORECASE
)


def read_storycloze(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
    """Stories with two endings: whole recordings, recordings or text of context and endings, or a table."""
    tables = [name for name in archive.names if name.lower().endswith(".csv")]
    if tables:
        return "choose", _story_table(archive, tables)
    stories: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in archive.names:
        match = _HALF.search(name)
        if match:
            form = "text" if match["form"].lower() == "txt" else "audio"
            stories[match["id"]][match["role"].lower()][form] = name
    if not stories and archive.find("*.wav"):
        raise ValueError(
            f"{archive.path}: cannot distinguish right and wrong endings by names such as {archive.find('*.wav')[0]}; "
            f"name them N_correct.wav and N_incorrect.wav"
        )
    several = any("mutual" in story for story in stories.values())
    roles = ("mutual", "correct", "incorrect") if several else ("correct", "incorrect")
    items = []
    for id in sorted(stories, key=_natural):
        story = stories[id]
        missing = [role for role in roles if role not in story]
        if missing:
            raise ValueError(f"{archive.path}: story {id}: {id}_{missing[0]} is missing")
        segments = {
            role: Segment(
                archive.read_text(paths["text"]).strip() if "text" in paths else None, paths.get("audio")
            )
            for role, paths in story.items()
        }
        context = (segments["mutual"],) if several else ()
        items.append(TestItem(id, context, ((segments["correct"],), (segments["incorrect"],)), 0))
    return "choose", items


def _story_table(archive: Archive, tables: list[str]) -> list[TestItem]:
    """Stories from a csv: one row per part of a story, or the text version with one row per story."""
    if len(tables) > 1:
        raise ValueError(f"{archive.path}: need one csv, got {tables[:3]}; name a folder that holds one test")
    rows = archive.read_csv(tables[0])
    if rows and "InputSentence1" in rows[0]:
        items = []
        for number, row in enumerate(rows, start=2):
            context = " ".join(row[f"InputSentence{i}"].strip() for i in range(1, 5))
            endings = [row[f"RandomFifthSentenceQuiz{i}"].strip() for i in (1, 2)]
            if row.get("AnswerRightEnding") not in ("1", "2"):
                raise ValueError(
                    f"{archive.path}/{tables[0]}: line {number}: AnswerRightEnding: need 1 or 2, "
                    f"got {row.get('AnswerRightEnding')!r}"
                )
            right = int(row["AnswerRightEnding"]) - 1
            choices = tuple((Segment(ending),) for ending in endings)
            items.append(TestItem(row["InputStoryid"], (Segment(context),), choices, right))
        return items
    rows = archive.read_csv(tables[0], "pair_id", "type", "correctness")
    stories: dict[str, dict[str, Segment]] = defaultdict(dict)
    for number, row in enumerate(rows, start=2):
        role = "prompt" if row["type"] == "prompt" else row["correctness"]
        if role not in ("prompt", "correct", "incorrect") or role in stories[row["pair_id"]]:
            raise ValueError(
                f"{archive.path}/{tables[0]}: line {number}: need one prompt, correct and incorrect row for story "
                f"{row['pair_id']}, got a second {role!r}"
            )
        stories[row["pair_id"]][role] = Segment(
            row.get("text") or None, archive.find_one(row["path"]) if row.get("path") else None
        )
    items = []
    for id, story in stories.items():
        missing = [role for role in ("prompt", "correct", "incorrect") if role not in story]
        if missing:
            raise ValueError(f"{archive.path}/{tables[0]}: story {id}: its {missing[0]} row is missing")
        items.append(TestItem(id, (story["prompt"],), ((story["correct"],), (story["incorrect"],)), 0))
    return items


SALMON = (
    "bg_alignment", "bg_all_consistency", "bg_domain_consistency", "gender_consistency", "rir_consistency",
    "sentiment_alignment", "sentiment_consistency", "speaker_consistency",
)  # fmt: skip
"""The parts of SALMon: what changes in the middle of a recording, or does not fit its words."""
_SAMPLE = re.compile(rf"(?:^|/)(?P<part>{'|'.join(SALMON)})/(?:.*/)?sample_(?P<id>\d+)_(?P<side>\d+)\.wav$")


def read_salmon(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
    """Pairs of recordings of eight parts; the first of a pair is the consistent one."""
    pairs: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
    for name in archive.names:
        if match := _SAMPLE.search(name):
            pair, side = pairs[match["part"], int(match["id"])], int(match["side"])
            if side in pair:
                raise ValueError(
                    f"{archive.path}: {match['part']}: two recordings are sample {match['id']}_{side}"
                )
            pair[side] = name
    if missing := sorted(set(SALMON) - {part for part, _ in pairs}) if pairs else []:
        raise ValueError(f"{archive.path}: need all eight parts, got none of {', '.join(missing)}")
    items = []
    for (part, number), pair in sorted(pairs.items()):
        if set(pair) != {0, 1}:
            raise ValueError(
                f"{archive.path}: {part}: sample_{number}: need recordings 0 and 1, got {sorted(pair)}"
            )
        choices = tuple((Segment(audio=pair[side]),) for side in (0, 1))
        items.append(TestItem(f"{part}/{number}", choices=choices, right=0, group=part))
    return "choose", items


def read_blimp(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
    """Pairs of sentences, 67 files of JSON lines or Parquet."""
    items = []
    for name in archive.find("*.jsonl") or archive.find("*.parquet"):
        for number, row in enumerate(_rows(archive, name), start=1):
            try:
                uid, pair = row["UID"], row.get("pairID", row.get("pair_id", number - 1))
                good, bad = row["sentence_good"], row["sentence_bad"]
            except KeyError as error:
                raise ValueError(
                    f"{archive.path}/{name}: line {number}: missing key {error}: half of the pair is missing"
                ) from error
            items.append(
                TestItem(f"{uid}/{pair}", choices=((Segment(good),), (Segment(bad),)), right=0, group=uid)
            )
    return "choose", items


def _rows(archive: Archive, name: str) -> Iterator[dict[str, Any]]:
    """Rows of a file of JSON lines or of Parquet."""
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        try:
            yield from pq.read_table(io.BytesIO(archive.read_bytes(name))).to_pylist()
        except (OSError, ValueError) as error:
            raise ValueError(f"{archive.path}/{name}: not Parquet ({error})") from error
        return
    for number, line in enumerate(archive.read_text(name).splitlines(), start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise ValueError(f"{archive.path}/{name}: line {number}: not JSON ({error})") from error


LETTERS = "ABCD"


@dataclass(frozen=True, slots=True)
class Question:
    """One question of MMLU."""

    subject: str
    text: str
    answers: tuple[str, ...]
    right: int

    def to_prompt(self, *, answered: bool) -> str:
        """As text, with its answer or up to it."""
        lines = [self.text, *(f"{letter}. {a}" for letter, a in zip(LETTERS, self.answers, strict=True))]
        return "\n".join([*lines, f"Answer: {LETTERS[self.right]}" if answered else "Answer:"])


def read_mmlu(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
    """Questions after the examples of their subject, in the order of the dev file."""
    tests, shots = (_questions(archive, split) for split in (options.split, "dev"))
    examples: dict[str, list[Question]] = defaultdict(list)
    for question in shots:
        examples[question.subject].append(question)
    items, number = [], Counter[str]()
    for question in tests:
        subject = question.subject
        if len(examples[subject]) < options.shots:
            raise ValueError(
                f"{archive.path}: subject {subject}: need {options.shots} examples in dev, got {len(examples[subject])}"
            )
        title = subject.replace("_", " ")
        prompt = [
            f"The following are multiple choice questions (with answers) about {title}.",
            *(example.to_prompt(answered=True) for example in examples[subject][: options.shots]),
            question.to_prompt(answered=False),
        ]
        choices = tuple((Segment(letter),) for letter in LETTERS)
        context = (Segment("\n\n".join(prompt)),)
        items.append(
            TestItem(f"{subject}/{number[subject]}", context, choices, question.right, group=subject)
        )
        number[subject] += 1
    return "choose", items


def _questions(archive: Archive, split: str) -> Iterator[Question]:
    tables = archive.find(f"{split}/*_{split}.csv")
    for name in tables:
        subject = PurePosixPath(name).name.removesuffix(f"_{split}.csv")
        for number, row in enumerate(csv.reader(io.StringIO(archive.read_text(name))), start=1):
            if len(row) != 6 or row[5].strip() not in LETTERS:
                raise ValueError(
                    f"{archive.path}/{name}: line {number}: need a question, four answers and A, B, C or D, got "
                    f"{len(row)} cells"
                )
            yield Question(
                subject, row[0].strip(), tuple(a.strip() for a in row[1:5]), LETTERS.index(row[5].strip())
            )
    if tables:
        return
    for name in archive.find(f"all/{split}-*.parquet", f"{split}-*.parquet"):
        if "auxiliary_train" in name:
            continue
        for number, record in enumerate(_rows(archive, name), start=1):
            answers = tuple(str(a).strip() for a in record.get("choices") or ())
            if len(answers) != 4 or record.get("answer") not in range(4):
                raise ValueError(
                    f"{archive.path}/{name}: row {number}: need four choices and an answer below 4, "
                    f"got {len(answers)} and {record.get('answer')!r}"
                )
            subject = record.get("subject") or PurePosixPath(name).parent.name
            yield Question(subject, record["question"].strip(), answers, int(record["answer"]))


def _natural(text: str) -> tuple[Any, ...]:
    """A sort key in which 2 comes before 10."""
    return tuple(int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", text))
