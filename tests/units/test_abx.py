"""ABX against a slow independent version, and against numbers of fastabx."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from units.abx import Token, abx, read_items, triphones
from units.phone_discovery import UndefinedMeasure

HOP, CENTRE = 320, 160


def random_speech(seed: int, units: bool) -> tuple[list[np.ndarray], list[str], list[str]]:
    """Frames, names and lines of an item file, as `FASTABX` was measured on."""
    rng = np.random.default_rng(seed)
    names, frames, lines = [f"u{i}" for i in range(6)], [], []
    for i, name in enumerate(names):
        frames.append(rng.integers(0, 4, (60, 1)).astype(float) if units else rng.standard_normal((60, 5)))
        for _ in range(9):
            start = round(rng.uniform(0, 1.0), 4)
            end = round(start + rng.uniform(0.05, 0.15), 4)
            lines.append(
                f"{name} {start} {end} {rng.choice(list('abc'))} {rng.choice(list('pq'))} t s{i % 3}"
            )
    return frames, names, lines


# per cent, fastabx 0.9.0: zerospeech_abx(item, features, max_size_group=None, max_x_across=None, frequency=50)
FASTABX = {
    (0, False): (38.950617, 45.642820), (1, False): (53.045082, 56.764220), (2, False): (63.524581, 50.866173),
    (0, True): (59.567900, 49.876704), (1, True): (49.546296, 46.786746), (2, True): (43.405534, 47.454460),
}  # fmt: skip
HEADER = "#file onset offset #phone prev-phone next-phone speaker\n"


@pytest.mark.parametrize(("seed", "units"), FASTABX)
def test_the_errors_are_those_of_fastabx(seed, units, tmp_path):
    frames, names, lines = random_speech(seed, units)
    item = tmp_path / "x.item"
    item.write_text(HEADER + "\n".join(lines))
    distance = "identical" if units else "angular"
    errors = abx(frames, read_items(item, names), hop=HOP, centre=CENTRE, distance=distance, group=None)
    assert (100 * errors["within"], 100 * errors["across"]) == pytest.approx(FASTABX[seed, units], abs=2e-5)


def test_fastabx_agrees_where_it_is_installed(tmp_path):
    fastabx = pytest.importorskip("fastabx", reason="the extra `abx`, for Python 3.12 or newer")
    import torch

    frames, names, lines = random_speech(7, False)
    (tmp_path / "x.item").write_text(HEADER + "\n".join(lines))
    for name, x in zip(names, frames):
        torch.save(torch.tensor(x, dtype=torch.float32), tmp_path / f"{name}.pt")
    errors = abx(frames, read_items(tmp_path / "x.item", names), hop=HOP, centre=CENTRE, group=None)
    for speaker in ("within", "across"):
        theirs = fastabx.zerospeech_abx(
            tmp_path / "x.item", tmp_path, max_size_group=None, max_x_across=None, speaker=speaker
        )
        assert errors[speaker] == pytest.approx(theirs, abs=2e-7)


def slow_distance(x, y, units: bool) -> float:
    """All paths, one by one: the cheapest sum; over the length that backtracking with diagonal, left, up finds."""

    def frame(i, j):
        if units:
            return float(x[i][0] != y[j][0])
        cosine = sum(a * b for a, b in zip(x[i], y[j])) / (math.hypot(*x[i]) * math.hypot(*y[j]))
        return math.acos(max(-1.0, min(1.0, cosine))) / math.pi

    best: dict[tuple[int, int], float] = {}

    def cost(i, j):
        if (i, j) not in best:
            before = [cost(*p) for p in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if min(p) >= 0]
            best[i, j] = frame(i, j) + min(before, default=0.0)
        return best[i, j]

    total, i, j, length = cost(len(x) - 1, len(y) - 1), len(x) - 1, len(y) - 1, 1
    while i or j:
        steps = [(i - 1, j - 1), (i, j - 1), (i - 1, j)]
        i, j = min((p for p in steps if min(p) >= 0), key=lambda p: best[p])
        length += 1
    return total / length


def slow_abx(features, tokens, units, within):
    """Every triple by itself."""

    def of(token):
        return [row for k, row in enumerate(features[token.utterance].tolist())
                if token.start <= (CENTRE + k * HOP) / 16_000 <= token.end]  # fmt: skip

    errors: dict[tuple, list[float]] = {}
    for a, b, x in itertools.product(tokens, repeat=3):
        same_speaker = x.speaker == a.speaker
        if (
            a is x
            or a.phone != x.phone
            or b.phone == a.phone
            or b.speaker != a.speaker
            or within != same_speaker
        ):
            continue
        if not a.context == b.context == x.context:
            continue
        near, far = slow_distance(of(x), of(a), units), slow_distance(of(x), of(b), units)
        key = ((a.phone, b.phone), a.speaker, (a.context, x.speaker))
        errors.setdefault(key, []).append(0.5 if near == far else float(far < near))
    cells = {key: sum(own) / len(own) for key, own in errors.items()}
    for level in (2, 1, 0):
        grouped: dict[tuple, list[float]] = {}
        for key, error in cells.items():
            grouped.setdefault(key[:level], []).append(error)
        cells = {key: sum(own) / len(own) for key, own in grouped.items()}
    return cells.get(())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.integers(1, 3), st.integers(2, 7))
def test_every_triple_by_itself_gives_the_same_errors(seed, units, speakers, count):
    rng = np.random.default_rng(seed)
    features = [
        rng.integers(0, 2, (40, 1)).astype(float) if units else rng.standard_normal((40, 2))
        for _ in range(speakers)
    ]
    tokens = []
    for number in range(speakers):
        for place in range(count):  # no two share a frame, whose angle is rounding alone
            start = 0.08 * place + rng.uniform(0, 0.02)
            phone, before = str(rng.choice(["a", "b"])), str(rng.choice(["s", "t"]))
            tokens.append(Token(number, start, start + 0.06, phone, (before, "k"), f"speaker {number}"))
    expected = {name: slow_abx(features, tokens, units, name == "within") for name in ("within", "across")}
    expected = {name: error for name, error in expected.items() if error is not None}
    distance = "identical" if units else "angular"
    if not expected:
        with pytest.raises(UndefinedMeasure, match="need two phones in one context"):
            abx(features, tokens, hop=HOP, centre=CENTRE, distance=distance, group=None)
        return
    errors = abx(features, tokens, hop=HOP, centre=CENTRE, distance=distance, group=None)
    assert {name: errors[name] for name in ("within", "across") if name in errors} == pytest.approx(expected)


def test_tokens_of_a_large_group_are_drawn_the_same_every_time():
    rng = np.random.default_rng(0)
    features = [rng.standard_normal((200, 3))]
    tokens = [Token(0, k * 0.02, k * 0.02 + 0.05, "ab"[k % 2], ("s", "t"), "anna") for k in range(60)]
    first, again = (abx(features, tokens, hop=HOP, centre=CENTRE, group=5) for _ in range(2))
    assert first == again
    assert first["tokens"] == 10


def test_a_zero_frame_a_token_without_a_frame_and_nan():
    features = [np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])]
    tokens = [
        Token(0, 0.02 * k, 0.02 * k + 0.019, phone, ("s", "t"), "anna") for k, phone in enumerate("aabb")
    ]
    lost = Token(0, 9.0, 9.1, "a", ("s", "t"), "anna")
    assert abx(features, [*tokens, lost], hop=HOP, centre=CENTRE) == {
        "tokens": 4, "empty": 1, "cells_within": 2, "within": 0.0, "cells_across": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="need finite numbers"):
        abx([features[0] * np.nan], tokens, hop=HOP, centre=CENTRE)
    with pytest.raises(ValueError, match="distance: need one of angular, identical, got 'cosine'"):
        abx(features, tokens, hop=HOP, centre=CENTRE, distance="cosine")


def test_triphones_stop_at_silence_and_gaps():
    phones = [
        ("a", 0.0, 0.1),
        ("b", 0.1, 0.2),
        ("c", 0.2, 0.3),
        ("sp", 0.3, 0.4),
        ("d", 0.4, 0.5),
        ("e", 0.6, 0.7),
    ]
    assert triphones([phones], ["anna"]) == [Token(0, 0.0, 0.3, "b", ("a", "c"), "anna")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\n", "need the header"),
        (HEADER + "u0 0.1 x a b c s\n", "line 2: need seven fields"),
        (HEADER + "u9 0.1 0.2 a b c s\n", "need an item of 1 recordings such as"),
    ],
)
def test_a_broken_item_file_is_refused_by_line(text, message, tmp_path):
    path = Path(tmp_path / "x.item")
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_items(path, ["u0"])
