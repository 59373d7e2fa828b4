"""Word times over a CTC model: against brute force, a slow Viterbi and planted peaks."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligners import load_aligner
from aligners.acoustics import AcousticModel, Letters, WindowSettings, load
from aligners.ctc import Span, align_piece, align_words, best_states, to_times
from corpus.records import Reject, Utterance
from pipelines.execution.task import key
from pipelines.settings import Settings, replace
from pipelines.steps.align import align_stage

BLANK, DELIMITER = 0, 1


def collapse(path):
    return [label for label, _ in itertools.groupby(path) if label != BLANK]


def log_softmax(scores):
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def random_log_probs(frames, tokens, seed):
    return log_softmax(np.random.default_rng(seed).normal(0, 2, (frames, tokens)))


def brute_force(log_probs, target):
    """Score of the best of all paths that collapse to the target, by trying them all."""
    paths = itertools.product(range(log_probs.shape[1]), repeat=len(log_probs))
    return max(
        (
            sum(row[label] for row, label in zip(log_probs, path))
            for path in paths
            if collapse(path) == target
        ),
        default=-np.inf,
    )


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 5), st.integers(0, 10**6))
@settings(deadline=None, max_examples=60)
def test_the_path_is_the_best_of_all(target, frames, seed):
    log_probs = random_log_probs(frames, 4, seed).astype(np.float32)
    best = brute_force(log_probs, target)
    words = [[token] for token in target]
    if not np.isfinite(best):
        with pytest.raises(Reject, match="too_short"):
            align_piece(log_probs, 0, frames, words, BLANK, None)
        return
    spans = align_piece(log_probs, 0, frames, words, BLANK, None)
    path = np.full(frames, BLANK)
    for token, span in zip(target, spans):
        path[span.first : span.last] = token
    assert collapse(path) == target
    assert sum(row[label] for row, label in zip(log_probs, path)) == pytest.approx(best, abs=1e-4)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 5), st.integers(0, 10**6))
@settings(deadline=None, max_examples=60)
def test_with_a_free_end_the_path_is_the_best_over_all_beginnings_of_the_text(target, frames, seed):
    log_probs = random_log_probs(frames, 4, seed)
    states = best_states(log_probs, np.array(target), BLANK)
    labels = np.where(states % 2 == 1, np.array([*target, 0])[states // 2], BLANK)
    best = max(brute_force(log_probs, target[:length]) for length in range(len(target) + 1))
    assert collapse(labels) == target[: len(collapse(labels))]
    assert sum(row[label] for row, label in zip(log_probs, labels)) == pytest.approx(best)


def planted(words, rng, gap=(1, 12), quiet=0.0):
    """Log probabilities with a clear peak for every letter, and the true frames of every word."""
    path, spans = [BLANK] * int(rng.integers(*gap)), []
    for number, word in enumerate(words):
        if number:
            path += [DELIMITER] + [BLANK] * int(rng.integers(*gap))
        first = len(path)
        for letter in word:
            path += [letter] * int(rng.integers(1, 3)) + [BLANK] * int(rng.integers(1, 4))
            last = len(path)
        while path[last - 1] == BLANK:
            last -= 1
        spans.append((first, last))
    scores = rng.normal(0, 0.5, (len(path), 30))
    scores[np.arange(len(path)), path] += 6
    return log_softmax(scores), spans


def some_words(count, rng):
    return [list(map(int, rng.integers(2, 30, int(rng.integers(1, 9))))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(4))
def test_a_long_recording_aligned_in_pieces_has_every_word_where_it_was_planted(seed):
    rng = np.random.default_rng(seed)
    words = some_words(150, rng)
    log_probs, spans = planted(words, rng)
    aligned = align_words(log_probs, words, BLANK, DELIMITER, piece=8)
    assert len(log_probs) > 2500
    assert [(span.first, span.last) for span in aligned] == spans
    assert align_words(log_probs, words, BLANK, DELIMITER, piece=2_000) == aligned


def test_long_silences_between_pieces_do_no_harm():
    rng = np.random.default_rng(9)
    words = some_words(12, rng)
    log_probs, spans = planted(words, rng, gap=(300, 900))
    aligned = align_words(log_probs, words, BLANK, DELIMITER, piece=8)
    assert [(span.first, span.last) for span in aligned] == spans


def test_what_torchaudio_accepts_silently_is_refused():
    good = random_log_probs(9, 4, 0)
    for value, reason in ((np.nan, "backend_error"), (-np.inf, "backend_error")):
        bad = good.copy()
        bad[3] = value
        with pytest.raises(Reject, match=reason):
            align_words(bad, [[2]], BLANK)
    with pytest.raises(Reject, match="too_short"):
        align_words(good[:3], [[2, 2], [3]], BLANK)


def test_a_word_ends_half_way_to_the_next_but_soon_after_its_last_letter():
    acoustics = AcousticModel(None, None, 0, None, hop=320, receptive=320, tail=0.1)
    spans = [Span(5, 10, 0.9), Span(14, 20, 0.8), Span(70, 72, 0.7)]
    times = list(to_times(spans, ["a", "b", "c"], acoustics, 2.0))
    assert [(time.start, round(time.end, 3)) for time in times] == [(0.1, 0.24), (0.28, 0.5), (1.4, 1.54)]


def test_words_are_spelled_in_the_models_case_and_unknown_letters_named():
    assert Letters({"C": 1, "A": 2, "N": 3, "T": 4}, False)("can't", None) == [1, 2, 3, 4]
    with pytest.raises(Reject, match="'цa': the model has no 'ц'"):
        Letters({"a": 1}, False)("цa", None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random Wav2Vec2 CTC model of a few kilobytes."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
    letters = ["<pad>", "|", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    config = Wav2Vec2Config(
        vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny")
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    return folder


@pytest.fixture
def mms(monkeypatch):
    """torchaudio's MMS_FA with every size small and random weights in place of the download."""
    import torch
    import torchaudio
    from torchaudio.pipelines._wav2vec2 import impl, utils

    true = torchaudio.pipelines.MMS_FA
    layers = [(8, kernel, stride) for _, kernel, stride in true._params["extractor_conv_layer_config"]]
    small = dict(
        extractor_conv_layer_config=layers, encoder_embed_dim=16, encoder_num_layers=2, encoder_num_heads=2,
        encoder_ff_interm_features=16, encoder_pos_conv_kernel=8, encoder_pos_conv_groups=2,
    )  # fmt: skip
    params = {**true._params, **small}

    def weights(path, dl_kwargs, axes):
        assert path == true._path
        assert dl_kwargs == {"weights_only": True}
        torch.manual_seed(0)
        return utils._get_model("Wav2Vec2", params).state_dict()

    monkeypatch.setattr(utils, "_get_state_dict", weights)
    bundle = impl.Wav2Vec2FABundle(
        true._path, params, true._sample_rate, true._normalize_waveform, "Wav2Vec2", true._labels
    )
    monkeypatch.setattr(torchaudio.pipelines, "MMS_FA", bundle)
    load.cache_clear()
    yield bundle
    load.cache_clear()


def test_a_bundle_of_torchaudio_aligns_any_script(mms):
    for text, language in (
        ("Hello there", "en"), ("слово за слово", "ru"), ("नमस्ते दुनिया", "hi"), ("مرحبا بك", "ar"), ("你好 世界", None),
    ):  # fmt: skip
        utterance = Utterance("u", "u.wav", len(WAVE), text=text, language=language)
        (result,) = load_aligner("ctc", model="MMS_FA").align([(utterance, WAVE)])
        assert result.reject is None, result.reject
        assert [word.text for word in result.words] == text.split()


def test_a_bundle_hears_the_same_as_torchaudios_own_pipeline(mms):
    import torch

    acoustics = load("MMS_FA", "cpu")
    with torch.inference_mode():
        theirs = mms.get_model(with_star=False, dl_kwargs={"weights_only": True})(
            torch.from_numpy(WAVE)[None]
        )
    (ours,) = acoustics.log_probs([WAVE], WindowSettings(60.0, 2.0, 1))
    assert np.allclose(ours, theirs[0][0].numpy(), atol=1e-4)
    assert [acoustics.spell(word, "de") for word in ("straße", "x-y")] == [
        [mms.get_dict()[letter] for letter in word] for word in ("strasse", "xy")
    ]


@pytest.mark.parametrize("batch", [2, 5])
def test_a_batch_gives_the_scores_of_single_recordings(mms, batch):
    acoustics = load("MMS_FA", "cpu")
    waves = [WAVE[: 8_000 * (3 + i % 4) + 77 * i] * (i + 1) for i in range(7)]
    alone = [next(acoustics.log_probs([wave], WindowSettings(1.0, 0.4, 1))) for wave in waves]
    together = list(acoustics.log_probs(waves, WindowSettings(1.0, 0.4, batch)))
    assert [one.shape for one in alone] == [one.shape for one in together]
    assert max(np.abs(a - b).max() for a, b in zip(alone, together)) < 1e-4


def test_a_model_with_group_norm_batches_windows_of_one_length_only(tiny):
    scorer = load(str(tiny), "cpu").log_probs
    waves = [WAVE, WAVE[:30_000], WAVE[::-1].copy()]
    cuts = [cut for place, wave in enumerate(waves) for cut in scorer.cut(place, wave, 20, 8)]
    groups = list(scorer.groups(cuts, 8))
    assert [cut for group in groups for cut in group] == cuts
    assert all(len({cut.right - cut.left for cut in group}) == 1 for group in groups)
    assert max(map(len, groups)) > 1


def test_an_utterance_that_breaks_the_model_costs_itself_only(tiny, monkeypatch):
    from aligners.acoustics import WindowedNetwork

    honest = WindowedNetwork.scores

    def broken(self, pieces):
        if any(np.abs(piece).max() > 50 for piece in pieces):
            raise RuntimeError("out of memory")
        return honest(self, pieces)

    monkeypatch.setattr(WindowedNetwork, "scores", broken)
    spike = WAVE.copy()
    spike[100] = 1e4
    batch = [(Utterance(id, "u.wav", len(wave), text="one two"), wave) for id, wave in
             (("a", WAVE), ("b", spike), ("c", WAVE))]  # fmt: skip
    results = load_aligner("ctc", model=str(tiny), batch=4).align(batch)
    assert [result.reject and result.reject.reason for result in results] == [
        None,
        "align.backend_error",
        None,
    ]
    assert results[0].words == results[2].words


def test_a_model_that_is_not_there_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"ctc.model .*nothing.*cannot be loaded"):
        load_aligner("ctc", model=str(tmp_path / "nothing"))


def test_other_weights_are_another_aligner(tiny, mms):
    assert load_aligner("ctc", model=str(tiny)).identity != load_aligner("ctc", model="MMS_FA").identity


WAVE = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)


def align(tiny, text, wave=WAVE, **settings):
    utterance = Utterance("u", "u.wav", len(wave), text=text)
    return load_aligner("ctc", model=str(tiny), **settings).align([(utterance, wave)])[0]


def test_a_model_directory_aligns_every_word(tiny):
    result = align(tiny, "Dr. Smith can't pay $3.50")
    assert result.reject is None, result.reject
    assert [word.text for word in result.words] == ["Dr.", "Smith", "can't", "pay", "$3.50"]
    assert all(0 < word.confidence < 1 for word in result.words)
    assert result.words[-1].end <= 3.0


def test_window_and_context_only_bound_the_memory(tiny):
    whole, cut = (
        align(tiny, "some words in a row", window_seconds=w, context_seconds=1.5) for w in (60, 0.5)
    )
    assert cut.reject is None
    assert [word.text for word in cut.words] == [word.text for word in whole.words]


@pytest.mark.parametrize(
    ("text", "wave", "reason"),
    [
        ("слово", WAVE, "align.out_of_vocabulary"),
        ("a" * 400, WAVE, "align.too_short"),
        ("hi", WAVE[:100], "align.too_short"),
        ("hi", WAVE[:0], "align.too_short"),
        ("hello there", WAVE[:2000], "align.too_short"),
        ("", WAVE, "text.empty"),
    ],
)
def test_what_cannot_be_aligned_is_rejected_with_a_reason(tiny, text, wave, reason):
    assert align(tiny, text, wave).reject.reason == reason


def test_low_confidence_is_low_quality(tiny):
    result = align(tiny, "hello", minimum_confidence=0.99)
    assert result.reject.reason == "align.low_quality"
    assert 0 < result.quality["confidence"] < 0.99


def test_settings_out_of_range_are_refused(tiny):
    with pytest.raises(ValueError, match="need window_seconds > 0"):
        load_aligner("ctc", model=str(tiny), window_seconds=0)


def test_the_batch_size_moves_no_bit_of_the_bundled_model_and_changes_no_key():
    acoustics = load("compact", "cpu")
    rng = np.random.default_rng(3)
    waves = [rng.normal(0, 0.1, length).astype(np.float32) for length in (40_000, 9_000, 23_456)]
    alone, batched = (list(acoustics.log_probs(waves, WindowSettings(1.0, 0.4, batch))) for batch in (1, 4))
    assert all(np.array_equal(one, other) for one, other in zip(alone, batched))
    stages = [
        align_stage(replace(Settings(), "align", backend="ctc", options=options))
        for options in ({}, {"batch": 4, "device": "cpu"})
    ]
    assert key(stages[0], ["a"]) == key(stages[1], ["a"])
    assert stages[1].places == ((("batch", 4), ("device", "cpu")), ())
    assert not stages[1].uses_gpu
    assert dataclasses.replace(stages[0], places=((("device", "cuda:1"),), ())).uses_gpu
