"""What is held out, and what became of each utterance."""

import itertools

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.steps.outcomes import OUTCOMES, accepted_rows, outcomes, summarise
from pipelines.steps.split import choose_held_out, hash_fraction, sum_rows

rows = st.lists(
    st.tuples(st.uuids().map(str), st.sampled_from(["a", "b", "c", None]), st.integers(1, 10_000)), min_size=1
)


@given(rows, st.sampled_from([0.05, 0.2, 0.5]), st.integers(0, 5))
def test_held_out_speakers_stay_within_the_share(rows, share, seed):
    split = choose_held_out(rows, by="speaker", share=share, seed=seed)
    held = sum(samples for _, speaker, samples in rows if speaker in split.speakers)
    assert held <= share * sum(samples for _, _, samples in rows)


@given(rows, st.integers(0, 5))
def test_the_choice_does_not_depend_on_the_order_of_rows(rows, seed):
    assert choose_held_out(rows, by="speaker", share=0.3, seed=seed) == choose_held_out(
        rows[::-1], by="speaker", share=0.3, seed=seed
    )


@given(rows, st.sampled_from(["speaker", "hash"]))
def test_something_is_held_out_whenever_a_share_is_asked(rows, by):
    split = choose_held_out(rows, by=by, share=0.05, seed=0)
    assert split.speakers or any(split.split_of(name, speaker) == "valid" for name, speaker, _ in rows)
    nothing = choose_held_out(rows, by=by, share=0.0, seed=0)
    assert {nothing.split_of(name, speaker) for name, speaker, _ in rows} == {"train"}


@given(
    rows,
    st.lists(st.integers(0, 20), max_size=4),
    st.sampled_from(["speaker", "hash"]),
    st.sampled_from([0.02, 0.3]),
)
def test_the_sums_of_parts_give_the_choice_that_all_rows_give(rows, cuts, by, share):
    parts = [rows[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(rows)])]
    summed = [row for part in parts for row in sum_rows(part, seed=3)]
    assert choose_held_out(summed, by=by, share=share, seed=3) == choose_held_out(
        rows, by=by, share=share, seed=3
    )


@given(
    st.lists(st.tuples(st.sampled_from(OUTCOMES), st.sampled_from(["train", "valid"]), st.integers(0, 99)))
)
def test_the_summary_of_a_part_names_every_row_of_every_stream_and_counts_its_samples(rows):
    table = [
        {"outcome": outcome, "split": split, "samples": samples, "reason": None}
        for outcome, split, samples in rows
    ]
    summary = summarise(table)
    listed = {}
    for (stream, split), ranges, samples in accepted_rows(summary):
        numbers = [number for first, stop in ranges for number in range(first, stop)]
        listed[stream, split] = numbers
        assert samples == sum(rows[number][2] for number in numbers)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    for stream, outcomes_in in (("speech", ("interleaved", "speech")), ("interleaved", ("interleaved",))):
        for split in ("train", "valid"):
            expected = [i for i, row in enumerate(rows) if row[0] in outcomes_in and row[1] == split]
            assert listed.get((stream, split), []) == expected
    assert sum(count for count, _ in summary["outcomes"].values()) == len(rows)


def test_a_speaker_is_never_in_both_splits():
    rows = [(f"u{number}", f"s{number % 10}", 1) for number in range(100)]
    split = choose_held_out(rows, by="speaker", share=0.2, seed=0)
    valid = {speaker for name, speaker, _ in rows if split.split_of(name, speaker) == "valid"}
    train = {speaker for name, speaker, _ in rows if split.split_of(name, speaker) == "train"}
    assert (len(valid), valid & train) == (2, set())


def test_draws_are_uniform():
    values = sorted(hash_fraction(0, str(number)) for number in range(1000))
    assert max(abs(value - place / 1000) for place, value in enumerate(values)) < 0.05


def test_the_first_stage_that_rejected_names_the_fate():
    def table(*codes):
        return pa.table({"reject": pa.array(codes, pa.string()), "detail": pa.array(codes, pa.string())})

    tables = (
        ("ingest", table(None, "audio.empty", None, None)),
        ("units", table(None, None, "audio.truncated", None)),
        ("align", table(None, None, None, "text.missing")),
    )
    kinds = [outcome for outcome, *_ in outcomes(tables, keep_unaligned=False)]
    assert kinds == ["interleaved", "rejected", "rejected", "rejected"]
    kept = outcomes(tables, keep_unaligned=True)
    assert kept[3] == ("speech", "align", "text.missing", "text.missing")
    assert outcomes(tables, keep_unaligned=False)[2][1] == "units"
