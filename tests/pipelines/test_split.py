"""What is held out, and what became of each utterance."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.steps.outcomes import outcomes
from pipelines.steps.split import choose_held_out, hash_fraction

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
