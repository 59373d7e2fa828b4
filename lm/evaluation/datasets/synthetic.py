"""Synthetic test sets in the grammar's language, with synthesised speech: a test set for every task.

| test set | the right choice | directions |
|---|---|---|
| words | a word, not a non-word | text, speech |
| sentences | the order of words, and the pronoun that fits a name | text, speech |
| stories | of two endings the one on the context's topic | text, speech, across |
| recall | of two endings the one with the thing that the person has in the context | text, speech, across |
| moods-text | of two endings the one in the mood that the context's words express | text, speech, across |
| moods-voice | of two endings the one in the mood that only the context's voice expresses | speech, speech to text |
| sentiment-text, sentiment-voice | such beginnings, to be continued in their mood | text, speech, across |

A name with a synthesiser, such as "stories@hibari", is the same test set spoken by that synthesiser.

Stories and voices differ from the training corpus's: another seed, and voices that `speak_miniature` and `synthesise`
do not use before their ninth. Twins exchange contexts, so that the likelihood of an ending by itself cancels out.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corpus.keyed import generator
from corpus.synthetic.grammar import MOODS, TOPICS, recall_story
from corpus.synthetic.pairs import sentence_pairs, twin_moods, twin_stories, word_pairs
from corpus.synthetic.speech import speak_all, speaker_by
from corpus.synthetic.stories import RATES, spoken_as
from lm.evaluation.testset import ITEMS, MANIFEST, Segment, TestItem, TestSet, read_testset, write_testset

VERSION = "2"
VOICES = (8, 9, 10)  # in corpus.synthetic.speech.VOICES; the demo and the study train on those before
ACROSS = ("T", "S", "T->S", "S->T")
FACTS = {"version": VERSION, "licence": "CC0-1.0", "source": "corpus.synthetic.grammar, spoken by espeak-ng"}
SPOKEN_BY = {"hibari": {"source": "corpus.synthetic.grammar, spoken by hibari-tts"}}


class Recorder:
    """Collects the recordings of a test set, to synthesise all of them in one process."""

    def __init__(
        self,
        seed: int,
        testset: str,
        topics: int = len(TOPICS),
        voices: Sequence[int] = VOICES,
        voice_seed: int = 0,
        synthesiser: str = "espeak",
    ):
        self.seed, self.testset, self.topics = seed, testset, topics
        self.voices = [speaker_by(synthesiser, number, voice_seed, RATES) for number in voices]
        self.lines: list[dict[str, Any]] = []

    def add(self, name: str, text: str, voice: int, mood: str = "neutral") -> Segment:
        """A segment in both forms, to be synthesised in one of the voices."""
        voice_settings = self.voices[voice % len(self.voices)]
        audio = f"audio/{name}.flac"
        line = {
            "id": f"{self.testset}-{name}",
            "audio": f"{self.testset}/{audio}",
            "text": text,
            **voice_settings,
        }
        self.lines.append(line | spoken_as(voice_settings, mood))
        return Segment(text, audio)


class Plan(NamedTuple):
    """A test set before its speech is synthesised."""

    task: str
    directions: Sequence[str]
    items: list[TestItem]
    labels: Sequence[str] = ()


def words(recorder: Recorder, count: int, known: frozenset[str]) -> Plan:
    """Word and non-word."""
    items = []
    for number, pair in enumerate(word_pairs(generator(recorder.seed, "test set", "words"), count, known)):
        choices = tuple(
            (recorder.add(f"{number:04d}-{side}", text, number),)
            for side, text in (("right", pair.right), ("wrong", pair.wrong))
        )
        items.append(TestItem(f"w{number:04d}", (), choices, right=0, group=pair.group))
    return Plan("choose", ("T", "S"), items)


def sentences(recorder: Recorder, count: int, known: frozenset[str]) -> Plan:
    """Right and wrong grammar."""
    items = []
    for number, pair in enumerate(sentence_pairs(generator(recorder.seed, "test set", "sentences"), count)):
        choices = tuple(
            (recorder.add(f"{number:04d}-{side}", text, number),)
            for side, text in (("right", pair.right), ("wrong", pair.wrong))
        )
        items.append(TestItem(f"g{number:04d}", (), choices, right=0, group=pair.group))
    return Plan("choose", ("T", "S"), items)


def stories(recorder: Recorder, count: int, known: frozenset[str], short: bool = True) -> Plan:
    """Two endings, two contexts: each pair of stories gives two items."""
    items = []
    pairs = twin_stories(
        generator(recorder.seed, "test set", "stories"),
        count,
        short=short,
        topics=recorder.topics,
        avoid=known,
    )
    for number, twins in enumerate(pairs):
        contexts, endings = [], []
        for side, story in zip("ab", twins, strict=True):
            contexts.append(
                (recorder.add(f"{number:04d}-{side}-context", " ".join(story.sentences[:-1]), number),)
            )
            endings.append((recorder.add(f"{number:04d}-{side}-ending", story.sentences[-1], number),))
        items += [
            TestItem(
                f"s{number:04d}{side}",
                context,
                tuple(endings),
                right,
                family=f"s{number:04d}",
                group=story.topic,
            )
            for right, (side, context, story) in enumerate(zip("ab", contexts, twins, strict=True))
        ]
    return Plan("choose", ACROSS, items)


def recall(recorder: Recorder, count: int, known: frozenset[str]) -> Plan:
    """Two endings (who gave what) for two contexts (who had what)."""
    items, rng = [], generator(recorder.seed, "test set", "recall")
    for number in range(count):
        story = recall_story(rng)
        while {f"{story.context} {story.ending}", f"{story.exchanged} {story.other}"} & known:
            story = recall_story(rng)
        name = f"r{number:04d}"
        a, b, right, other = (
            (recorder.add(f"{number:04d}-{side}", text, number),)
            for side, text in zip("abcd", story, strict=True)
        )
        items += [
            TestItem(f"{name}{side}", one, (right, other), correct, family=name)
            for side, one, correct in (("a", a, 0), ("b", b, 1))
        ]
    return Plan("choose", ACROSS, items)


def moods_text(recorder: Recorder, count: int, known: frozenset[str]) -> Plan:
    """The context's words express a mood, its voice none."""
    return _moods(recorder, count, "moods-text", ACROSS, worded=True)


def moods_voice(recorder: Recorder, count: int, known: frozenset[str]) -> Plan:
    """The context's voice expresses a mood, its words none."""
    return _moods(recorder, count, "moods-voice", ("S", "S->T"), worded=False)


def _moods(recorder: Recorder, count: int, name: str, directions: Sequence[str], *, worded: bool) -> Plan:
    items = []
    for number, twins in enumerate(twin_moods(generator(recorder.seed, "test set", name), count)):
        contexts, endings = [], []
        for side, story in zip("ab", twins, strict=True):
            text, mood = (story.worded, "neutral") if worded else (story.plain, story.mood)
            contexts.append((recorder.add(f"{number:04d}-{side}-context", text, number, mood),))
            endings.append((recorder.add(f"{number:04d}-{side}-ending", story.ending, number, mood),))
        group = f"{twins[0].mood} or {twins[1].mood}"
        items += [
            TestItem(
                f"m{number:04d}{side}", context, tuple(endings), right, family=f"m{number:04d}", group=group
            )
            for right, (side, context) in enumerate(zip("ab", contexts, strict=True))
        ]
    return Plan("choose", directions, items)


def sentiment_text(recorder: Recorder, count: int, known: frozenset[str]) -> Plan:
    """Beginnings whose words express a mood."""
    return _sentiment(recorder, count, "sentiment-text", ACROSS, worded=True)


def sentiment_voice(recorder: Recorder, count: int, known: frozenset[str]) -> Plan:
    """Beginnings whose voice expresses a mood."""
    return _sentiment(recorder, count, "sentiment-voice", ("S", "S->T"), worded=False)


def _sentiment(recorder: Recorder, count: int, name: str, directions: Sequence[str], *, worded: bool) -> Plan:
    test: list[TestItem] = []
    train: list[TestItem] = []
    for number, twins in enumerate(
        twin_moods(generator(recorder.seed, "test set", name), 2 * -(-count // 2))
    ):
        learning = number % 2 == 1  # whole stories: a classifier learns the endings, too
        for side, story in zip("ab", twins, strict=True):
            text, mood = (story.worded, "neutral") if worded else (story.plain, story.mood)
            part = recorder.add(
                f"{number:04d}-{side}", f"{text} {story.ending}" if learning else text, number, mood
            )
            split = "train" if learning else "test"
            item = TestItem(
                f"c{number:04d}{side}", (part,), label=story.mood, split=split, family=f"c{number:04d}"
            )
            (train if learning else test).append(item)
    items = [*test[:count], *train]
    return Plan("continue", directions, items, tuple(MOODS))


MAKERS: dict[str, Callable[[Recorder, int, frozenset[str]], Plan]] = {
    "words": words,
    "sentences": sentences,
    "stories": stories,
    "recall": recall,
    "moods-text": moods_text,
    "moods-voice": moods_voice,
    "sentiment-text": sentiment_text,
    "sentiment-voice": sentiment_voice,
}

NAMES = tuple(MAKERS)


def make_testsets(
    folder: Path,
    *,
    names: Sequence[str] = NAMES,
    items: int = 100,
    seed: int = 1,
    topics: int = len(TOPICS),
    voices: Sequence[int] = VOICES,
    avoid: frozenset[str] = frozenset(),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, TestSet]:
    """Write test sets into `folder/NAME`, or read those that exist with the same settings.

    Args:
        names: of MAKERS, each with "@" and a synthesiser where it is not espeak-ng.
        items: pairs (of words, sentences, stories or moods) in a test set; beginnings in a test set to continue.
        seed: of all texts; the study uses different ones for training, development and test.
        topics: how many of TOPICS the stories are about.
        voices: numbers of speakers; name those of a training corpus to measure the cost of unknown voices.
        avoid: stories that were trained on, which no item repeats.
    """
    of_name = {name: name.partition("@")[::2] for name in names}
    unknown = sorted({maker for maker, _ in of_name.values()} - set(MAKERS))
    if unknown or items < 1:
        raise ValueError(
            f"test sets: need items >= 1 and some of {', '.join(NAMES)}, got {items} and {unknown}"
        )
    if mooded := [
        name for name, (maker, by) in of_name.items() if by and maker.startswith(("moods", "sentiment"))
    ]:
        raise ValueError(f"test sets: only espeak-ng speaks in moods, got {', '.join(mooded)}")
    known = avoid | dictionary() if "words" in dict(of_name.values()) else avoid
    settings = {
        "items": items, "seed": seed, "topics": topics, "voices": list(voices),
        "avoid": hashlib.sha256("\n".join(sorted(avoid)).encode()).hexdigest(),
    }  # fmt: skip
    testsets: dict[str, TestSet] = {}
    plans: dict[str, Plan] = {}
    lines: list[dict[str, Any]] = []
    for name in names:
        existing = _existing(folder / name, settings)
        if existing is not None:
            testsets[name] = existing
            continue
        maker, synthesiser = of_name[name]
        recorder = Recorder(seed, name, topics, voices, synthesiser=synthesiser or "espeak")
        plans[name] = MAKERS[maker](recorder, items, known)
        lines += recorder.lines
        (folder / name / "audio").mkdir(parents=True, exist_ok=True)
        for file in (MANIFEST, ITEMS):
            (folder / name / file).unlink(missing_ok=True)
    if lines:
        say(f"test sets: synthesising {len(lines)} recordings for {', '.join(plans)}")
        for _ in speak_all(folder, lines):
            pass
    for name, plan in plans.items():
        testsets[name] = write_testset(
            folder / name, plan.items, name=name, task=plan.task, directions=plan.directions, labels=plan.labels,
            **(FACTS | SPOKEN_BY.get(of_name[name][1], {})), settings=settings,
        )  # fmt: skip
    return {name: testsets[name] for name in names}


def dictionary() -> frozenset[str]:
    """Words of the CMU pronouncing dictionary, as pocketsphinx ships it: no non-word may be among them."""
    import pocketsphinx

    path = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    return frozenset(line.split(maxsplit=1)[0] for line in path.read_text().splitlines() if line.strip())


def _existing(folder: Path, settings: dict[str, Any]) -> TestSet | None:
    """The complete test set in a folder, if it was made with these settings."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        testset = read_testset(folder)
    except ValueError:
        return None
    return testset if testset.version == VERSION and testset.facts.get("settings") == settings else None
