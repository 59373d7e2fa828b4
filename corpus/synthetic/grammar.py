"""A small grammar of short stories. Each story has one topic, and the topic decides which nouns and verbs it uses.

So a model that has understood the beginning of a story can tell a fitting ending from one of another topic. All
words are lower case and in the CMU pronouncing dictionary; none of a topic's words starts with a vowel.
"""

from typing import NamedTuple

import numpy as np


class Topic(NamedTuple):
    """Words that go together."""

    people: list[str]
    places: list[str]
    things: list[str]
    verbs: list[str]  # past tense; anything in `things` can be their object
    qualities: list[str]  # can be said of anything in `things`


class Story(NamedTuple):
    """A few sentences on one topic, without capitals; the last one is the ending."""

    topic: str
    sentences: list[str]

    @property
    def text(self) -> str:
        """All sentences in one line."""
        return " ".join(self.sentences)


def _topic(people: str, places: str, things: str, verbs: str, qualities: str) -> Topic:
    return Topic(people.split(), places.split(), things.split(), verbs.split(), qualities.split())


TOPICS = {
    "kitchen": _topic(
        "cook baker",
        "kitchen bakery",
        "soup bread cake pie sauce",
        "tasted served warmed",
        "salty sweet fresh",
    ),
    "music": _topic(
        "singer drummer",
        "theater studio",
        "song melody tune rhythm waltz",
        "played practiced sang",
        "gentle loud joyful",
    ),
    "garden": _topic(
        "gardener florist",
        "garden greenhouse",
        "rose tulip fern daisy bush",
        "planted watered trimmed",
        "green wild tall",
    ),
    "sea": _topic(
        "sailor captain",
        "harbor lighthouse",
        "boat ship ferry canoe raft",
        "steered sailed rowed",
        "sturdy wooden swift",
    ),
    "school": _topic(
        "teacher student",
        "school library",
        "book lesson poem chapter story",
        "studied learned recited",
        "difficult famous brief",
    ),
    "farm": _topic(
        "farmer shepherd", "farm barn", "cow goat sheep horse pig", "fed brushed chased", "hungry fat brown"
    ),
    "clinic": _topic(
        "doctor nurse",
        "hospital clinic",
        "bruise fever cough burn rash",
        "treated cured examined",
        "serious painful mild",
    ),
    "workshop": _topic(
        "carpenter builder",
        "workshop cellar",
        "table chair shelf cabinet bench",
        "repaired painted polished",
        "broken narrow heavy",
    ),
    "winter": _topic(
        "skier hunter",
        "mountain valley",
        "sled trail slope glacier blizzard",
        "crossed followed faced",
        "frozen steep snowy",
    ),
    "market": _topic(
        "merchant tailor",
        "market shop",
        "coat shirt dress scarf hat",
        "bought sold sewed",
        "cheap silk fancy",
    ),
    "sky": _topic(
        "pilot scientist",
        "tower desert",
        "planet comet star rocket moon",
        "watched measured photographed",
        "bright distant tiny",
    ),
    "sport": _topic(
        "player coach",
        "stadium gym",
        "game match race contest final",
        "won lost finished",
        "tough friendly quick",
    ),
}

NAMES = {  # name -> pronoun
    **dict.fromkeys(["mary", "susan", "linda", "helen", "karen", "nancy", "julia", "diana"], "she"),
    **dict.fromkeys(["john", "peter", "david", "robert", "thomas", "henry", "martin", "daniel"], "he"),
}

TIMES = ["monday", "sunday", "friday", "saturday"]
PARTS = ["morning", "evening", "afternoon", "night"]

OPENINGS = [
    "{name} and the {person} went to the {place} on {time} {part}.",
    "on {time}, {name} met the {person} near the {place}.",
    "it was a quiet {time} {part}, and {name} was at the {place} with the {person}.",
    "every {time} the {person} took {name} to the {place}.",
    "the {person} was alone in the {place} when {name} came to visit.",
]

MIDDLES = [
    "{pronoun} {verb1} the {quality1} {thing1} while the {person} {verb2} the {thing2}.",
    "the {person} showed {name} a {quality1} {thing1} and talked about the {thing2}.",
    "they {verb1} the {thing1}, but nobody {verb2} the {quality2} {thing2}.",
    "there was a {quality1} {thing1}, and {pronoun} {verb1} it twice.",
    "{name} asked if the {thing1} was too {quality1} for the {person}.",
    "for an hour the {person} {verb1} one {quality1} {thing1} after another.",
    "{pronoun} had never seen a {thing1} that was so {quality2}.",
    "first {pronoun} {verb1} the {thing1}, and then {pronoun} {verb2} the {quality2} {thing2} as well.",
]

ENDINGS = [
    "at last {name} {verb2} the {quality2} {thing3} with a smile.",
    "in the end the {person} said that the {thing3} was {quality2} and left the {place}.",
    "before dark they {verb1} the {quality2} {thing3} together.",
    "so {name} thanked the {person} for the {quality2} {thing3}.",
    "the next day everyone at the {place} talked about the {quality2} {thing3}.",
]


def story(rng: np.random.Generator, topic: str | None = None) -> Story:
    """Make up a story: an opening, up to two sentences in the middle, an ending; 17 to 56 words.

    Args:
        rng: its state decides the story.
        topic: a name in TOPICS; by default a random one.

    >>> story(np.random.default_rng(0), "sea").sentences[-1]
    'before dark they sailed the swift ferry together.'
    """
    topic = topic or _pick(rng, list(TOPICS))
    words = TOPICS[topic]
    name = _pick(rng, list(NAMES))
    filling = {
        "name": name,
        "pronoun": NAMES[name],
        "person": _pick(rng, words.people),
        "place": _pick(rng, words.places),
        "time": _pick(rng, TIMES),
        "part": _pick(rng, PARTS),
    }
    for role, choices in (("thing", words.things), ("verb", words.verbs), ("quality", words.qualities)):
        for number, index in enumerate(rng.permutation(len(choices))[:3], start=1):
            filling[f"{role}{number}"] = choices[index]
    middles = rng.permutation(len(MIDDLES))[: rng.integers(3)]
    patterns = [_pick(rng, OPENINGS), *(MIDDLES[index] for index in middles), _pick(rng, ENDINGS)]
    return Story(topic, [pattern.format(**filling) for pattern in patterns])


SHORT_OPENINGS = [
    "{name} met the {person1} at the {place}.",
    "the {person1} took {name} to the {place}.",
    "{name} was at the {place} with the {person1}.",
]
SHORT_MIDDLES = ["{pronoun} {verb1} the {quality1} {thing1}.", "they {verb1} a {quality1} {thing1}."]
SHORT_ENDINGS = [
    "then the {person2} {verb2} a {quality2} {thing2}.",
    "so the {person2} {verb2} the {quality2} {thing2}.",
]


def short_story(rng: np.random.Generator, topic: str | None = None) -> Story:
    """Make up a story of 19 or 20 words: opening, middle, ending. Four words of the ending belong to the topic.

    The context has no word of the ending but those that every topic has: what tells the right ending from that
    of another story is the topic alone.

    >>> short_story(np.random.default_rng(0), "sea").text
    'henry was at the lighthouse with the sailor. they steered a wooden canoe. so the captain sailed the swift ferry.'
    """
    topic = topic or _pick(rng, list(TOPICS))
    words = TOPICS[topic]
    name = _pick(rng, list(NAMES))
    filling = {"name": name, "pronoun": NAMES[name], "place": _pick(rng, words.places)}
    for role in ("people", "things", "verbs", "qualities"):
        choices = getattr(words, role)
        one = {"people": "person", "things": "thing", "verbs": "verb", "qualities": "quality"}[role]
        for number, index in enumerate(rng.permutation(len(choices))[:2], start=1):
            filling[f"{one}{number}"] = choices[index]
    patterns = [_pick(rng, choices) for choices in (SHORT_OPENINGS, SHORT_MIDDLES, SHORT_ENDINGS)]
    return Story(topic, [pattern.format(**filling) for pattern in patterns])


class Mood(NamedTuple):
    """Words of one sentiment, and how a voice sounds in it."""

    days: list[str]
    feelings: list[str]
    deeds: list[str]
    rate: float  # times the voice's own words a minute
    pitch: int  # added to the voice's own, of 100
    range: int  # of pitch, of 100


MOODS = {
    "positive": Mood(
        ["wonderful", "lovely", "perfect", "great"],
        ["happy", "glad", "cheerful", "proud"],
        ["laughed", "smiled", "cheered", "danced"],
        rate=1.15, pitch=20, range=95,
    ),
    "negative": Mood(
        ["terrible", "gloomy", "horrible", "dreadful"],
        ["sad", "angry", "bitter", "miserable"],
        ["cried", "shouted", "complained", "frowned"],
        rate=0.85, pitch=-20, range=10,
    ),
    "neutral": Mood(
        ["normal", "usual", "common", "regular"],
        ["calm", "busy", "ready", "sleepy"],
        ["nodded", "waited", "rested", "listened"],
        rate=1.0, pitch=0, range=45,
    ),
}  # fmt: skip


class Moody(NamedTuple):
    """A story whose ending follows from its sentiment: `plain` says nothing of it in words, `worded` does."""

    mood: str
    plain: str
    worded: str
    ending: str


def moody_story(rng: np.random.Generator, mood: str | None = None) -> Moody:
    """Make up two beginnings of a story in a mood, one whose words do not tell it, and the ending of both.

    >>> example = moody_story(np.random.default_rng(1), "negative")
    >>> print(example.plain, example.ending)
    john met the shepherd at the barn. so he frowned and felt miserable.
    >>> example.worded
    'it was a terrible day for john and the shepherd.'
    """
    mood = mood or _pick(rng, list(MOODS))
    words = TOPICS[_pick(rng, list(TOPICS))]
    name = _pick(rng, list(NAMES))
    person, place = _pick(rng, words.people), _pick(rng, words.places)
    opening = _pick(rng, SHORT_OPENINGS).format(name=name, person1=person, place=place)
    day, feeling, deed = (_pick(rng, getattr(MOODS[mood], field)) for field in ("days", "feelings", "deeds"))
    worded = f"it was a {day} day for {name} and the {person}."
    return Moody(mood, opening, worded, f"so {NAMES[name]} {deed} and felt {feeling}.")


class Recall(NamedTuple):
    """Who has what: the ending names what one of two people has; with exchanged things the other ending is right."""

    context: str
    exchanged: str
    ending: str
    other: str  # the right ending after `exchanged`


def recall_story(rng: np.random.Generator) -> Recall:
    """Make up a story that can only be ended by one who remembers its words, not its topic.

    >>> print(*recall_story(np.random.default_rng(0)), sep="\\n")
    linda had the sheep and robert had the poem.
    linda had the poem and robert had the sheep.
    soon linda gave the sheep to the cook.
    soon linda gave the poem to the cook.
    """
    first, second = (list(NAMES)[index] for index in rng.permutation(len(NAMES))[:2])
    topics = list(TOPICS.values())
    thing, another = (_pick(rng, topics[index].things) for index in rng.permutation(len(topics))[:2])
    person = _pick(rng, _pick_topic(rng).people)
    context = "{0} had the {2} and {1} had the {3}."
    ending = f"soon {first} gave the {{}} to the {person}."
    return Recall(
        context.format(first, second, thing, another),
        context.format(first, second, another, thing),
        ending.format(thing),
        ending.format(another),
    )


def _pick_topic(rng: np.random.Generator) -> Topic:
    return list(TOPICS.values())[rng.integers(len(TOPICS))]


def _pick(rng: np.random.Generator, choices: list[str]) -> str:
    return choices[rng.integers(len(choices))]
