"""Minimal pairs of the grammar's language: words beside non-words, right beside wrong sentences, twin stories."""

from typing import NamedTuple

import numpy as np

from corpus.synthetic.grammar import NAMES, TOPICS, Moody, Story, moody_story, short_story, story

VOWELS = "aeiouy"


class Pair(NamedTuple):
    """What is right and what is wrong, as alike as can be; `group` says in what they differ."""

    right: str
    wrong: str
    group: str


def topical_words() -> list[str]:
    """All words that belong to a topic, in order of the alphabet."""
    return sorted({word for topic in TOPICS.values() for words in topic for word in words})


def split_onset(word: str) -> tuple[str, str]:
    """A word's letters before its first vowel, and the rest.

    >>> split_onset("shirt"), split_onset("student")
    (('sh', 'irt'), ('st', 'udent'))
    """
    onset = next((i for i, letter in enumerate(word) if letter in VOWELS), len(word))
    return word[:onset], word[onset:]


def word_pairs(rng: np.random.Generator, count: int, known: frozenset[str] = frozenset()) -> list[Pair]:
    """Words and non-words: a word's onset before another's rest, as many letters, neither is a word.

    Args:
        known: words that a non-word may not be, beside those of the grammar.

    >>> word_pairs(np.random.default_rng(0), 2)
    [Pair(right='singer', wrong='ringer', group='onset'), Pair(right='desert', wrong='nesert', group='onset')]
    """
    words = topical_words()
    onsets = sorted({split_onset(word)[0] for word in words} - {""})
    used, pairs = {*words, *NAMES, *known}, []
    order = rng.permutation(len(words))
    for _ in range(20):
        for index in order:
            word = words[index]
            onset, rest = split_onset(word)
            alike = [one for one in onsets if len(one) == len(onset) and one != onset]
            other = alike[rng.integers(len(alike))] + rest if alike and rest else word
            if other not in used:
                used.add(other)
                pairs.append(Pair(word, other, "onset"))
            if len(pairs) == count:
                return pairs
    raise ValueError(
        f"words: the grammar gives {len(pairs)} pairs of words and non-words, got {count} asked for"
    )


def sentence_pairs(rng: np.random.Generator, count: int) -> list[Pair]:
    """Right and wrong sentences of the same words, or of one pronoun against another; no sentence comes twice.

    >>> for pair in sentence_pairs(np.random.default_rng(2), 4): print(pair.group, "|", pair.right, "|", pair.wrong)
    article | the pilot watched the bright star. | pilot the watched the bright star.
    quality | the singer practiced the joyful rhythm. | the singer practiced the rhythm joyful.
    verb | the pilot measured the bright comet. | the pilot the measured bright comet.
    pronoun | david was at the clinic. he treated the mild cough. | david was at the clinic. she treated the mild cough.
    """
    pairs: list[Pair] = []
    seen: set[str] = set()
    for attempt in range(100 * count):
        words = list(TOPICS.values())[rng.integers(len(TOPICS))]
        person, verb, quality, thing, place = (
            options[rng.integers(len(options))]
            for options in (words.people, words.verbs, words.qualities, words.things, words.places)
        )
        name = list(NAMES)[rng.integers(len(NAMES))]
        pronoun = NAMES[name]
        other = {"he": "she", "she": "he"}[pronoun]
        opening = f"{name} was at the {place}."
        group, right, wrong = (
            ("article", "the {p} {v} the {q} {t}.", "{p} the {v} the {q} {t}."),
            ("quality", "the {p} {v} the {q} {t}.", "the {p} {v} the {t} {q}."),
            ("verb", "the {p} {v} the {q} {t}.", "the {p} the {v} {q} {t}."),
            ("pronoun", f"{opening} {pronoun} {{v}} the {{q}} {{t}}.", f"{opening} {other} {{v}} the {{q}} {{t}}."),
        )[attempt % 4]  # fmt: skip
        filling = {"p": person, "v": verb, "q": quality, "t": thing}
        pair = Pair(right.format(**filling), wrong.format(**filling), group)
        if pair.right not in seen:
            seen.add(pair.right)
            pairs.append(pair)
        if len(pairs) == count:
            return pairs
    raise ValueError(f"sentences: the grammar gives {len(pairs)} pairs, got {count} asked for")


class Twins(NamedTuple):
    """Two stories of different topics; the ending of each is wrong for the other."""

    first: Story
    second: Story


def twin_stories(
    rng: np.random.Generator,
    count: int,
    *,
    short: bool,
    topics: int = len(TOPICS),
    avoid: frozenset[str] = frozenset(),
    draws: int = 12,
) -> list[Twins]:
    """Pairs of stories whose endings are of about one length; no story is in `avoid`, none comes twice.

    Args:
        short: stories of `short_story`, else of `story`.
        topics: how many of TOPICS they are on.
        draws: candidates for the second story, of which the one with the ending of the closest length is used.
    """

    def candidate(rng: np.random.Generator) -> Story:
        return (short_story if short else story)(rng, list(TOPICS)[rng.integers(topics)])

    stories: list[Twins] = []
    seen = set(avoid)
    while len(stories) < count:
        first = candidate(rng)
        others = [one for one in (candidate(rng) for _ in range(draws)) if one.topic != first.topic]
        others = [one for one in others if one.text not in seen and one.text != first.text]
        if first.text in seen or not others:
            continue
        second = min(others, key=lambda one: abs(len(one.sentences[-1]) - len(first.sentences[-1])))
        seen |= {first.text, second.text}
        stories.append(Twins(first, second))
    return stories


def twin_moods(rng: np.random.Generator, count: int) -> list[tuple[Moody, Moody]]:
    """Pairs of one beginning in two moods: the same words where they say nothing of the mood, endings of about one
    length about the same person. The three pairs of moods take turns."""
    moods = [("positive", "negative"), ("positive", "neutral"), ("neutral", "negative")]
    pairs: list[tuple[Moody, Moody]] = []
    seen = set[str]()
    while len(pairs) < count:
        seed = int(rng.integers(2**32))
        # one seed gives the same person, place and name in every mood
        first, second = (moody_story(np.random.default_rng(seed), mood) for mood in moods[len(pairs) % 3])
        if first.plain in seen:
            continue
        seen.add(first.plain)
        pairs.append((first, second))
    return pairs
