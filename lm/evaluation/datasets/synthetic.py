"""Packs made of the grammar's language, spoken on the spot: every task a model of the synthetic corpus can be asked.

| pack | what is right | in |
|---|---|---|
| words | a word, not a non-word | text, speech |
| sentences | the order of words, and the pronoun that fits a name | text, speech |
| stories | of two endings the one that the context's topic calls for | text, speech, across |
| recall | of two endings the one that names what the context says a person has | text, speech, across |
| moods-said | of two endings the one in the mood that the context names | text, speech, across |
| moods-heard | of two endings the one in the mood that the context's voice alone tells | speech, speech to text |
| sentiment-said, sentiment-heard | such beginnings, to be continued in their mood | text, speech, across |

Stories and voices are none of the training corpus's: another seed, and voices that `speak_miniature` and `synthesise`
do not use before their ninth. Twins exchange contexts, so that what an ending costs by itself can be cancelled out.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corpus.synthetic.grammar import MOODS, TOPICS, recall_story
from corpus.synthetic.pairs import sentence_pairs, twin_moods, twin_stories, word_pairs
from corpus.synthetic.speech import keyed_rng, speak_all, speaker
from corpus.synthetic.stories import RATES, spoken_as
from lm.evaluation.testset import ITEMS, MANIFEST, Item, Pack, Part, read_pack, write_pack

VERSION = "1"
VOICES = (8, 9, 10)  # of corpus.synthetic.speech.VOICES: the demo's corpus and the study's use those before
ACROSS = ("T", "S", "T->S", "S->T")
NAMES = (
    "words",
    "sentences",
    "stories",
    "recall",
    "moods-said",
    "moods-heard",
    "sentiment-said",
    "sentiment-heard",
)
FACTS = {"version": VERSION, "licence": "CC0-1.0", "source": "corpus.synthetic.grammar, spoken by espeak-ng"}


class Recorder:
    """Collects what is to be spoken; `speak` speaks all of it in one process."""

    def __init__(
        self,
        seed: int,
        pack: str,
        topics: int = len(TOPICS),
        voices: Sequence[int] = VOICES,
        voice_seed: int = 0,
    ):
        self.seed, self.pack, self.topics = seed, pack, topics
        self.voices = [speaker(number, voice_seed, RATES) for number in voices]
        self.lines: list[dict[str, Any]] = []

    def say(self, name: str, text: str, voice: int, mood: str = "neutral") -> Part:
        """A part that is written and will be spoken by one of the voices."""
        made = self.voices[voice % len(self.voices)]
        audio = f"audio/{name}.flac"
        line = {"id": f"{self.pack}-{name}", "audio": f"{self.pack}/{audio}", "text": text, **made}
        self.lines.append(line | spoken_as(made, mood))
        return Part(text, audio)


class Plan(NamedTuple):
    """A pack before it is spoken."""

    task: str
    directions: Sequence[str]
    items: list[Item]
    labels: Sequence[str] = ()


def words(say: Recorder, count: int, known: frozenset[str]) -> Plan:
    """Word and non-word."""
    items = []
    for number, pair in enumerate(word_pairs(keyed_rng("pack", say.seed, "words"), count, known)):
        choices = tuple(
            (say.say(f"{number:04d}-{side}", text, number),)
            for side, text in (("right", pair.right), ("wrong", pair.wrong))
        )
        items.append(Item(f"w{number:04d}", (), choices, right=0, group=pair.group))
    return Plan("choose", ("T", "S"), items)


def sentences(say: Recorder, count: int, known: frozenset[str]) -> Plan:
    """Right and wrong grammar."""
    items = []
    for number, pair in enumerate(sentence_pairs(keyed_rng("pack", say.seed, "sentences"), count)):
        choices = tuple(
            (say.say(f"{number:04d}-{side}", text, number),)
            for side, text in (("right", pair.right), ("wrong", pair.wrong))
        )
        items.append(Item(f"g{number:04d}", (), choices, right=0, group=pair.group))
    return Plan("choose", ("T", "S"), items)


def stories(say: Recorder, count: int, known: frozenset[str], short: bool = True) -> Plan:
    """Two endings, two contexts: each pair of stories gives two items."""
    items = []
    told = twin_stories(
        keyed_rng("pack", say.seed, "stories"), count, short=short, topics=say.topics, avoid=known
    )
    for number, twins in enumerate(told):
        contexts, endings = [], []
        for side, story in zip("ab", twins, strict=True):
            contexts.append(
                (say.say(f"{number:04d}-{side}-context", " ".join(story.sentences[:-1]), number),)
            )
            endings.append((say.say(f"{number:04d}-{side}-ending", story.sentences[-1], number),))
        items += [
            Item(
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


def recall(say: Recorder, count: int, known: frozenset[str]) -> Plan:
    """Two endings of who gave what, two contexts of who had what."""
    items, rng = [], keyed_rng("pack", say.seed, "recall")
    for number in range(count):
        told = recall_story(rng)
        while {f"{told.context} {told.ending}", f"{told.exchanged} {told.other}"} & known:
            told = recall_story(rng)
        name = f"r{number:04d}"
        a, b, right, other = (
            (say.say(f"{number:04d}-{side}", text, number),) for side, text in zip("abcd", told, strict=True)
        )
        items += [
            Item(f"{name}{side}", one, (right, other), place, family=name)
            for side, one, place in (("a", a, 0), ("b", b, 1))
        ]
    return Plan("choose", ACROSS, items)


def moods_said(say: Recorder, count: int, known: frozenset[str]) -> Plan:
    """The context's words name a mood, its voice none."""
    return _moods(say, count, "moods-said", ACROSS, worded=True)


def moods_heard(say: Recorder, count: int, known: frozenset[str]) -> Plan:
    """The context's voice has a mood, its words none."""
    return _moods(say, count, "moods-heard", ("S", "S->T"), worded=False)


def _moods(say: Recorder, count: int, name: str, directions: Sequence[str], *, worded: bool) -> Plan:
    items = []
    for number, twins in enumerate(twin_moods(keyed_rng("pack", say.seed, name), count)):
        contexts, endings = [], []
        for side, story in zip("ab", twins, strict=True):
            text, mood = (story.worded, "neutral") if worded else (story.plain, story.mood)
            contexts.append((say.say(f"{number:04d}-{side}-context", text, number, mood),))
            endings.append((say.say(f"{number:04d}-{side}-ending", story.ending, number, mood),))
        group = f"{twins[0].mood} or {twins[1].mood}"
        items += [
            Item(f"m{number:04d}{side}", context, tuple(endings), right, family=f"m{number:04d}", group=group)
            for right, (side, context) in enumerate(zip("ab", contexts, strict=True))
        ]
    return Plan("choose", directions, items)


def sentiment_said(say: Recorder, count: int, known: frozenset[str]) -> Plan:
    """Beginnings whose words name a mood."""
    return _sentiment(say, count, "sentiment-said", ACROSS, worded=True)


def sentiment_heard(say: Recorder, count: int, known: frozenset[str]) -> Plan:
    """Beginnings whose voice has a mood."""
    return _sentiment(say, count, "sentiment-heard", ("S", "S->T"), worded=False)


def _sentiment(say: Recorder, count: int, name: str, directions: Sequence[str], *, worded: bool) -> Plan:
    test: list[Item] = []
    train: list[Item] = []
    for number, twins in enumerate(twin_moods(keyed_rng("pack", say.seed, name), 2 * -(-count // 2))):
        learning = number % 2 == 1  # whole stories, from which a judge learns how endings sound, too
        for side, story in zip("ab", twins, strict=True):
            text, mood = (story.worded, "neutral") if worded else (story.plain, story.mood)
            part = say.say(
                f"{number:04d}-{side}", f"{text} {story.ending}" if learning else text, number, mood
            )
            split = "train" if learning else "test"
            item = Item(
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
    "moods-said": moods_said,
    "moods-heard": moods_heard,
    "sentiment-said": sentiment_said,
    "sentiment-heard": sentiment_heard,
}


def make_packs(
    folder: Path,
    *,
    names: Sequence[str] = NAMES,
    items: int = 100,
    seed: int = 1,
    topics: int = len(TOPICS),
    voices: Sequence[int] = VOICES,
    avoid: frozenset[str] = frozenset(),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Pack]:
    """Write packs into `folder/NAME`, or read them where they stand as asked.

    Args:
        items: pairs (of words, sentences, stories or moods) in a pack; beginnings in a pack to continue.
        seed: of everything; the study draws training, development and test with different ones.
        topics: how many of TOPICS the stories are on.
        voices: numbers of speakers; those of a training corpus, to see what unheard voices cost.
        avoid: stories that were trained on.
    """
    unknown = sorted(set(names) - set(MAKERS))
    if unknown or items < 1:
        raise ValueError(f"packs: need items >= 1 and some of {', '.join(NAMES)}, got {items} and {unknown}")
    known = avoid | dictionary() if "words" in names else avoid
    asked: dict[str, Any] = {
        "asked": {"items": items, "seed": seed, "topics": topics, "voices": list(voices), "avoid": len(avoid)}
    }
    found: dict[str, Pack] = {}
    plans: dict[str, Plan] = {}
    lines: list[dict[str, Any]] = []
    for name in names:
        standing = _standing(folder / name, asked)
        if standing is not None:
            found[name] = standing
            continue
        recorder = Recorder(seed, name, topics, voices)
        plans[name] = MAKERS[name](recorder, items, known)
        lines += recorder.lines
        (folder / name / "audio").mkdir(parents=True, exist_ok=True)
        for place in (MANIFEST, ITEMS):
            (folder / name / place).unlink(missing_ok=True)
    if lines:
        say(f"packs: speaking {len(lines)} recordings for {', '.join(plans)}")
        for _ in speak_all(folder, lines):
            pass
    for name, plan in plans.items():
        found[name] = write_pack(
            folder / name, plan.items, name=name, task=plan.task, directions=plan.directions, labels=plan.labels,
            **FACTS, **asked,
        )  # fmt: skip
    return {name: found[name] for name in names}


def dictionary() -> frozenset[str]:
    """Words of the CMU pronouncing dictionary, as pocketsphinx brings it: no non-word may be among them."""
    import pocketsphinx

    path = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    return frozenset(line.split(maxsplit=1)[0] for line in path.read_text().splitlines() if line.strip())


def _standing(folder: Path, asked: dict[str, Any]) -> Pack | None:
    """A pack that is there, whole and made as asked."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        pack = read_pack(folder)
    except ValueError:
        return None
    return pack if pack.version == VERSION and pack.facts.get("asked") == asked["asked"] else None
