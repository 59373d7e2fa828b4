"""Plain English: phrases and names that were replaced by standard terms are not used again.

docs/LOG.md and CHANGELOG.md are history and keep them.
"""

import io
import re
import subprocess
import tokenize

import pytest

from tests.helpers.requirements import ROOT

HISTORY = {"docs/LOG.md", "CHANGELOG.md", "LICENSE", "tests/test_language.py"}
TEXT = {".py", ".md", ".toml", ".html", ".sh", ".txt", ".yaml", ".json", ""}

PHRASES = {
    r"hangs? on": "depends on",
    r"of others": "third-party, other",
    r"of ours": "our own",
    r"so many": "N, at most N",
    r"without a word": "silently",
    r"go(es)? on|went on": "continues, resumes",
    r"by the way": "incidentally",
    r"on the spot": "here, now",
    r"as fast again": "50 % faster",
    r"robot speech": "synthetic speech",
    r"imitations?": "stub",
    r"yardsticks?": "baseline",
    r"front door": "entry point",
    r"in miniature": "at small scale",
    r"told apart": "distinguished",
    r"said again": "repeated",
    r"(was|were|is|are) told": "received, labelled",
    r"what (was|is) asked": "the settings",
    r"heard|hears|hearing": "recognised, read, encoded",
    r"(all )?\d+ stand|what stands|stands? here": "up to date",
    r"drawn anew|dealt out|deals? out": "sampled, assigned",
    r"at most so|so much, at most": "at most N",
    r"need a int": "need an integer",
    r"the hub gives us": "that can be downloaded from the hub",
    r"spark gave up": "the Spark job failed",
    r"words? we use": "glossary",
}
"""A phrase, as a regular expression between word boundaries -> what to write."""

NAMES = {
    "asked", "drawn", "hear", "heard", "heard_again", "hush", "listen", "listen_all", "listen_each", "listener",
    "names_of", "run_together", "said", "speak_again", "spoken_again", "take_apart", "taken", "throw_away", "told",
    "told_labels", "write_down", "yardsticks",
    "Asker", "Asking", "FrontDoor", "Half", "Hand", "HELD", "InOrder", "Kept", "LADDER", "ListeningStage", "Mixer",
    "ROOMS", "Tally", "Together",
}  # fmt: skip
"""Names of variables, functions and classes."""

MODULES = {
    "askers", "curve", "deal", "door", "expressive", "hear", "lab", "listen", "look", "processes", "scoreboard", "stsp",
    "strassen", "together", "tree", "upkeep", "voice", "waves", "worker",
}  # fmt: skip

ALLOWED: set[tuple[str, str]] = set()
"""(path, phrase found): where a phrase is right in its ordinary sense."""


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def texts() -> dict[str, str]:
    return {
        name: (ROOT / name).read_text(encoding="utf-8")
        for name in tracked()
        if name not in HISTORY and (ROOT / name).suffix in TEXT and not name.startswith("tests/data/")
    }


def places(pattern: str, text: str) -> list[tuple[int, str]]:
    """Line number and match of each place, a phrase over two lines too."""
    spaced = pattern.replace(" ", r"[\s#]+")
    return [
        (text.count("\n", 0, match.start()) + 1, match.group())
        for match in re.finditer(rf"(?<![\w-])(?:{spaced})(?![\w-])", text, re.IGNORECASE)
    ]


def test_a_phrase_is_found_in_any_case_and_over_two_lines_but_not_inside_a_word():
    assert places("of ours", "one of ours; of\n    # ours; Of ours; of courses") == [
        (1, "of ours"), (1, "of\n    # ours"), (2, "Of ours"),
    ]  # fmt: skip


def test_no_text_has_a_phrase_that_was_replaced():
    matches = [
        f"{name}:{line}: {match!r}; better: {better}"
        for name, text in texts().items()
        for pattern, better in PHRASES.items()
        for line, match in places(pattern, text)
        if (name, match.lower()) not in ALLOWED
    ]
    assert matches == []


def test_no_code_has_a_name_that_was_replaced():
    matches = [
        f"{name}:{token.start[0]}: {token.string}"
        for name, text in texts().items()
        if name.endswith(".py") and NAMES & set(re.findall(r"\w+", text))  # only these are tokenised
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.NAME and token.string in NAMES
    ]
    assert matches == []


def test_no_module_or_folder_has_a_name_that_was_replaced():
    names = [name for name in tracked() if name.endswith(".py")]
    assert [name for name in names if MODULES & set(name.removesuffix(".py").split("/"))] == []
