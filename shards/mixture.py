"""Which stream the next tokens come from: deficit round robin over the streams of a mixture."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import lcm

QUOTA = 512
"""Tokens. A sequence consists of quotas of at most this length, each of one stream."""


class DeficitRoundRobin:
    """The streams of each sequence, by integer arithmetic on the weights: the same for every rank.

    A sequence is cut into ceil(L / 512) equal quotas. A stream's deficit is the tokens due to it by its weight less
    those it was given. A quota goes to a stream with a positive deficit: to the one with the largest deficit within the
    sequence's *lane*, so that every lane reads its share of every stream; but if the deficit of a stream is a whole
    quota, to that stream. So after any number of sequences each stream has its share to within about one quota.

    Args:
        stages: (tokens, weights): the weights of the streams from that many tokens on. One stage at 0 is constant.
        sequence_length: L, tokens.
        lanes: lane g mod lanes fills sequence g.

    Source: Shreedhar and Varghese 1996, with the largest deficit first instead of a fixed order.
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
        count = -(-sequence_length // QUOTA)
        cuts = [sequence_length * i // count for i in range(count + 1)]
        self.quotas = [stop - start for start, stop in pairwise(cuts)]
        streams = len(self.stages[0][1])
        self.sequence = 0
        self.deficits = [0] * streams  # tokens * whole
        self.given = [[0] * streams for _ in range(lanes)]  # tokens, per lane

    def next(self) -> list[tuple[int, int]]:
        """(stream, tokens) of the next global sequence, each stream at most once."""
        tokens = self.sequence * self.sequence_length
        weights = next(row for start, row in reversed(self.stages) if start <= tokens)
        given = self.given[self.sequence % self.lanes]
        self.sequence += 1
        parts: dict[int, int] = {}
        for quota in self.quotas:
            self.deficits = deficits = [
                deficit + weight * quota for deficit, weight in zip(self.deficits, weights, strict=True)
            ]
            largest = max(deficits)
            if largest >= quota * self.whole:
                stream = deficits.index(largest)
            else:
                total = sum(given) + quota
                lane_deficits = [
                    weight * total - tokens_given * self.whole if deficit > 0 else None
                    for weight, tokens_given, deficit in zip(weights, given, deficits, strict=True)
                ]
                stream = lane_deficits.index(max(value for value in lane_deficits if value is not None))
            deficits[stream] -= quota * self.whole
            given[stream] += quota
            parts[stream] = parts.get(stream, 0) + quota
        return list(parts.items())
