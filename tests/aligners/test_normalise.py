"""Writing -> spoken words, and the way back."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligners.english.numerals import SMALL, TENS, THOUSANDS, cardinal, ordinal
from aligners.english.read import READERS, fold, read_out
from aligners.markup import PREFIX, ROLES, speakers
from aligners.normalise import normalise, spoken_words


def spoken(text, language="en"):
    return " ".join(word for token in normalise(text, language) for word in token.spoken)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Dr. Smith & Mrs. Jones", "doctor smith and missus jones"),
        ("Mr Smith lives in St. Paul on Main St. now", "mister smith lives in saint paul on main street now"),
        ("it cost $3.50, £1 or €0.99", "it cost three dollars fifty one pound or ninety nine cents"),
        (
            "$2 $1,200.00 $3.5 million $5k",
            "two dollars one thousand two hundred dollars three point five million "
            "dollars five thousand dollars",
        ),
        (
            "in 1455, 1905, 1900, 2000, 2007 and 2024",
            "in fourteen fifty five nineteen oh five nineteen hundred "
            "two thousand two thousand seven and twenty twenty four",
        ),
        ("1,024 007 12345", "one thousand twenty four oh oh seven twelve thousand three hundred forty five"),
        ("the 1st, 2nd, 23rd and 100th", "the first second twenty third and one hundredth"),
        ("3.14 or -5", "three point one four or minus five"),
        ("10:30, 9:00 and 24/7", "ten thirty nine o'clock and twenty four seven"),
        ("the 1960s and '90s", "the nineteen sixties and nineties"),
        ("50% @ home, 2+2=4", "fifty percent at home two plus two equals four"),
        ("forty-two twenty-1st", "forty two twenty first"),
        ("well--known—or… not", "well known or not"),
        ("don’t ‘quote’ “me”, 'tis rock'n'roll", "don't quote me 'tis rock'n'roll"),
        ("the boys' café, naïve Øre, ﬁne straße", "the boys cafe naive ore fine strasse"),
        ("U.S. at 5 p.m., e.g. No. 7", "u s at five p m e g number seven"),
        ("(one) [laughs] two <noise> {x} three", "one two three"),
        ("on May 5, 1984", "on may fifth nineteen eighty four"),
        ("5km A&B", "five kilometers a and b"),
        ("слово 日本 ٣", "слово 日本 ٣"),
        (
            "Chapter XIV, Henry VIII and Louis XVI's World War II, Vol. II",
            "chapter fourteen henry the eighth and louis the sixteenth's world war two volume two",
        ),
        ("I DID MIX a CIVIL chapter", "i did mix a civil chapter"),
        (
            "on 25 December 2001, the 5 May 1984, 2001-12-25 and 12/25/2001",
            "on the twenty fifth of december two thousand one the fifth of may nineteen eighty four "
            "december twenty fifth two thousand one and december twenty fifth two thousand one",
        ),
        ("he may march 5 miles", "he may march five miles"),
        ("3½ cups, ¼ or 5/8 of 1/2", "three and one half cups one quarter or five eighths of one half"),
        (
            "10 km/h, 5 kg, 1 lb, 20 lbs, 3 in. and 5mph",
            "ten kilometers per hour five kilograms one pound twenty pounds three inches and five miles per hour",
        ),
        ("98.6°F 20 °C −5", "ninety eight point six degrees fahrenheit twenty degrees celsius minus five"),
        ("6'2\" or 6′2″", "six foot two or six foot two"),
        ("at 7am, 7:30am, 10:00 p.m.", "at seven a m seven thirty a m ten p m"),
        (
            "pp. 10-12, 1990–1995, $3-$4, 3-2",
            "pages ten to twelve nineteen ninety to nineteen ninety five three "
            "dollars to four dollars three two",
        ),
        ("(555) 123-4067", "five five five one two three four oh six seven"),
        ("a@b.com www.x.org", "a at b dot com w w w dot x dot org"),
        ("in 1066; 100s of 5's; .5; № 5", "in ten sixty six one hundreds of fives point five number five"),
        (
            "Mt. Everest, Ft. Worth, 6 ft., Ph.D., ₹100",
            "mount everest fort worth six feet p h d one hundred rupees",
        ),
    ],
)
def test_english_is_read_out(text, words):
    assert spoken(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!SIL he said SIL <unk> (laughs) [laughter-mean] it [noise]", "he said mean it"),
        ("A: yes. B: no", "yes no"),
        ("JOHN: hello there\n>> MARY ANN: hi", "hello there hi"),
        ("SPEAKER_01: one\n*CHI: two", "one two"),
        ("NASA HAS LAUNCHED: IT", "nasa has launched it"),
        ("Note: grade A: good", "note grade a good"),
        ("(one) two (clears throat) [vocalized-noise]", "one two"),
        ("(the music) (1.5) (1) sil", "one sil"),
        ("%um &-uh what's xxx ((perhaps)) (( )) {laugh}", "um uh what's perhaps"),
        ("*coughs* *yes* ++UM++ &=laughs (.) ♪ song ♪ <|en|>", "yes song"),
        ("&quot;Hello&nbsp;&amp;&nbsp;bye&quot; &lt;noise&gt; don&#39;t", "hello and bye don't"),
        ("&amp;amp; R&D; AT&T", "and amp r and d at and t"),
        ("mean\u200bthat you\u2060thought \ufeffso sil\xadly", "mean that you thought so silly"),
        (
            "5 €, € 5, 5€, €5 and 3€-4€",
            "five euros five euros five euros five euros and three euros to four euros",
        ),
        (
            "5,50 €, 5.50€, USD 20, 20 EUR, $ 1.",
            "five euros fifty five euros fifty twenty dollars twenty euros one dollar",
        ),
    ],
)
def test_markup_is_not_spoken(text, words):
    assert spoken(text) == words


def test_markup_is_the_same_in_other_languages():
    assert spoken("A: Schiff\xadfahrt [noise] &auml;hm <unk> (laughs)", "de") == "schifffahrt ähm"


def test_the_original_text_keeps_its_own_characters():
    text = "&quot;Don&#39;t&nbsp;stop.&nbsp; A: now&excl;"
    assert [text[first:last] for _, first, last in normalise(text)] == [
        "&quot;Don&#39;t&nbsp;",
        "stop.&nbsp; A:",
        "now&excl;",
    ]


def test_other_languages_are_only_lower_cased():
    assert spoken("L’Été à 3 % — «Straße»", "fr") == "l'été à 3 straße"
    assert spoken("नमस्ते", "hi") == "नमस्ते"


def test_chinese_characters_are_words_for_nothing_else_says_where_words_end():
    text = "你好，世界 ABC!"
    tokens = normalise(text, "zh")
    assert [text[token.first : token.last] for token in tokens] == ["你", "好，", "世", "界", "ABC!"]
    assert spoken(text, "zh") == "你 好 世 界 abc"


@pytest.mark.parametrize("text", ["", "  \n", "...", "[noise]", "-- “”"])
def test_nothing_to_say_gives_no_tokens(text):
    assert normalise(text) == ()


def test_what_is_not_spoken_stays_with_its_neighbour():
    text = "-- Hello — [laughs] big  world !"
    assert [text[token.first : token.last] for token in normalise(text)] == [
        "-- Hello — [laughs]",
        "big",
        "world !",
    ]


entities = st.lists(
    st.sampled_from(["&amp;", "&#39;", "&nbsp;", "a", "b ", "&", "1", " ", "<i>", "SIL ", "A: "])
)
writing = entities.map("".join) | st.text(
    st.sampled_from("ab Zé1.9,$%&'’-—–([<>])!:/°½ß日ж…\n\u00a0\u0301st"), max_size=40
)
anything = st.text(max_size=30)


@given(writing | anything, st.sampled_from(["en", "de"]))
@settings(deadline=None, max_examples=400)
def test_every_letter_lies_in_exactly_one_token_and_ranges_are_in_order(text, language):
    tokens = normalise(text, language)
    edges = [edge for token in tokens for edge in (token.first, token.last)]
    assert edges == sorted(edges)
    assert all(token.first < token.last and token.spoken and all(token.spoken) for token in tokens)
    covered = {place for token in tokens for place in range(token.first, token.last)}
    if tokens:
        assert all(place in covered for place, char in enumerate(text) if char.isalnum())


@given(writing | anything, st.sampled_from(["en", "de"]))
@settings(deadline=None, max_examples=400)
def test_reading_out_what_was_read_out_changes_nothing(text, language):
    once = spoken(text, language)
    assert spoken(once, language) == once


@given(anything)
@settings(deadline=None)
def test_a_letter_is_never_silent(text):
    outside = text.translate(str.maketrans("", "", "[]<>{}"))
    assert bool(normalise(outside)) == any(map(str.isalnum, outside)) or any(
        char in "&%@+=°§×" for char in outside
    )


CHUNKS = """
    The the I I'm I's it's dogs' 'tis forty-two don't st. St. No. no p. fig. in in. in... km kg am ft Dr Mr. etc etc.
    chapter Henry XIV IV viii Mix MIX 10 5 3.5 1984 1990s '90s $5 $3.50 million \u20ac EUR usd 10:30 10:00 a.m. U.S.
    May may March (laughs) [noise] [laughter-mean] SIL xxx www www... A: JOHN: -- 10\u201312 foo--bar wait... \u2026and
    &amp; & don&#39;t café ½ 2½ google.com #7 # %um rock-'n'-roll "hello" (one) *coughs* {x} a\u200bb +5 -3 5' 50% 98.6
    °F 555-0123 2nd 21st \u200b USD million, AND DIV [laughter-st.] xxx--yyy SIL[noise] (May $ Interviewer: word\u2019s
    """.split()  # noqa: SIM905


@given(st.lists(st.tuples(st.sampled_from(CHUNKS), st.sampled_from(" \n.,;"))), st.sampled_from(["en", "de"]))
@settings(max_examples=300)
def test_spoken_words_are_those_of_the_tokens(chunks, language):
    text = "".join(f"{chunk}{end} " for chunk, end in chunks)
    assert spoken_words(text, language) == [
        word for token in normalise(text, language) for word in token.spoken
    ]


@given(writing | anything | st.sampled_from(CHUNKS))
@settings(deadline=None, max_examples=300)
def test_a_stretch_is_read_out_as_by_trying_every_reader_at_every_place(text):
    folded = fold(text)
    spoken, position = [], 0
    while position < len(folded):
        found = (
            (match, read)
            for pattern, read in READERS
            if (match := pattern.match(folded, position)) is not None
        )
        match, read = next(found, (None, None))
        spoken += read(match) if match else []
        position = match.end() if match else position + 1
    assert read_out(folded) == spoken


def value_of(words):
    total = group = 0
    for word in words:
        if word in THOUSANDS:
            total, group = total + group * 1000 ** (1 + THOUSANDS.index(word)), 0
        elif word == "hundred":
            group *= 100
        else:
            group += SMALL.index(word) if word in SMALL else 20 + 10 * TENS.index(word)
    return total + group


@given(st.integers(0, 10**15 - 1) | st.integers(0, 2100))
def test_a_number_spelt_out_is_that_number(value):
    words = cardinal(str(value))
    assert value_of(words) == value
    assert "zero" not in words or value == 0
    assert ordinal(str(value))[:-1] == words[:-1]


def test_an_ordinal_of_any_length_is_read():
    assert spoken("the " + "1" * 40 + "st") == "the" + " one" * 39 + " first"


prefixes = st.lists(
    st.sampled_from(
        [
            *ROLES,
            "A",
            "Q",
            "JOHN",
            "MRS. SMITH",
            "*CHI",
            "SPEAKER_01",
            "B1",
            "note",
            ":",
            ": ",
            ". ",
            "\n",
            ">> ",
            " ",
            "-",
        ]
    )
)


@given(prefixes.map("".join))
@settings(deadline=None, max_examples=300)
def test_speakers_are_those_that_follow_the_start_of_a_text_a_sentence_or_a_turn(text):
    before = r"[\n\r\u2028\u2029.?!>\])]"
    slowly = re.compile(PREFIX.pattern.replace(before, f"(?:^|(?<={before}))", 1), re.VERBOSE)
    assert speakers(text) == [(match.start(1), match.end(), match[1]) for match in slowly.finditer(text)]
