"""Which stream the next tokens come from."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import lcm

TURN = 512
"""Tokens. A sequence is made of turns of at most this length, each of one stream."""


class Mixer:
    """Which streams the sequences are made of: by arithmetic on the weights, the same for every rank.

    A sequence is cut into ceil(L / 512) equal turns. A turn goes to a stream that is owed tokens; of those to the one
    that its *lane* is owed most, so that every lane reads its share of every stream; unless a stream is owed a whole
    turn, then it goes there. So after any number of sequences each stream has its share to within about one turn.

    Args:
        stages: (tokens, weights): from so many tokens on, the weights of the streams. One stage at 0 is constant.
        sequence_length: L, tokens.
        lanes: which lane fills sequence g: g mod lanes.
    """

    def __init__(self, stages: Sequence[tuple[int, Sequence[float]]], sequence_length: int, lanes: int):
        fractions = [
            [Fraction(weight).limit_denominator(10**6) for weight in weights] for _, weights in stages
        ]
        shares = [[weight / sum(row) for weight in row] for row in fractions]
        self.whole = lcm(*(share.denominator for row in shares for share in row))
        self.stages = [
            (start, [int(share * self.whole) for share in row])
            for (start, _), row in zip(stages, shares, strict=True)
        ]
        self.lanes, self.sequence_length = lanes, sequence_length
        count = -(-sequence_length // TURN)
        cuts = [sequence_length * i // count for i in range(count + 1)]
        self.turns = [stop - start for start, stop in pairwise(cuts)]
        streams = len(self.stages[0][1])
        self.sequence = 0
        self.owed = [0] * streams  # tokens * whole, due minus given
        self.drawn = [[0] * streams for _ in range(lanes)]  # tokens

    def next(self) -> list[tuple[int, int]]:
        """(stream, tokens) of the next global sequence, each stream at most once."""
        tokens = self.sequence * self.sequence_length
        weights = next(row for start, row in reversed(self.stages) if start <= tokens)
        drawn = self.drawn[self.sequence % self.lanes]
        self.sequence += 1
        found: dict[int, int] = {}
        for turn in self.turns:
            owed = self.owed = [owed + weight * turn for owed, weight in zip(self.owed, weights, strict=True)]
            most = max(owed)
            if most >= turn * self.whole:
                stream = owed.index(most)
            else:
                total = sum(drawn) + turn
                due = [
                    weight * total - given * self.whole if overall > 0 else None
                    for weight, given, overall in zip(weights, drawn, owed, strict=True)
                ]
                stream = due.index(max(value for value in due if value is not None))
            owed[stream] -= turn * self.whole
            drawn[stream] += turn
            found[stream] = found.get(stream, 0) + turn
        return list(found.items())
