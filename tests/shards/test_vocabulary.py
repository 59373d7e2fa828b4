import itertools
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from shards.text import count_pieces, count_words, load_tokenizer, train_bpe
from shards.vocabulary import KINDS, Vocabulary
from tests.helpers.shards import WORDS, toy_vocabulary

WORD = st.text(st.characters(exclude_categories=("Cs", "Z", "C")), min_size=1, max_size=12)


def test_ids_follow_the_layout_of_spirit_lm(tmp_path):
    tokenizer = train_bpe(["some text"], tmp_path / "tokenizer.json", size=300)
    base = Vocabulary(tokenizer)
    first = tokenizer.size
    assert (base.text_marker, base.speech_marker, base.first_unit) == (first, first + 1, first + 2)
    assert (base.size, base.padded_size) == (first + 503, -(-(first + 503) // 128) * 128)
    expressive = Vocabulary(tokenizer, pitch=64, style=100, tasks=True)
    assert (expressive.first_pitch, expressive.first_style) == (first + 503, first + 567)
    assert (expressive.asr_marker, expressive.tts_marker, expressive.size) == (
        first + 667,
        first + 668,
        first + 669,
    )


def test_kinds_have_the_order_of_the_ids():
    vocabulary = toy_vocabulary(64, 100)
    kinds = vocabulary.kind(np.arange(vocabulary.padded_size))
    padding = vocabulary.padded_size - vocabulary.size
    lengths = (vocabulary.text_size, 2, 501, 64, 100, 2, padding)
    assert np.array_equal(kinds, np.repeat(np.arange(len(KINDS)), lengths))
    assert vocabulary.counts(np.array([0, vocabulary.first_unit])) == {"text": 1, "unit": 1}


def test_a_kind_without_tokens_has_no_ids():
    vocabulary = toy_vocabulary(tasks=False)
    kinds = vocabulary.kind(np.arange(vocabulary.padded_size))
    assert set(kinds) == {KINDS.index(kind) for kind in ("text", "marker", "unit", "padding")}


@pytest.mark.parametrize("bad", [[-1], [10**6]])
def test_an_id_outside_the_vocabulary_is_an_error(bad):
    with pytest.raises(ValueError, match="ids: need"):
        toy_vocabulary().kind(bad)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_encode_undoes_decode(data):
    vocabulary = toy_vocabulary(64, 100)
    ids = data.draw(st.lists(st.integers(0, vocabulary.size - 1), max_size=30))
    assert vocabulary.encode(vocabulary.decode(ids)) == ids


def test_a_rendered_string_encodes_to_the_same_ids():
    vocabulary = toy_vocabulary(64, 100)
    text = "<s>[Text] and they[Speech][St7][Pi3][Hu3][Hu500][Text] went, [laughs][TTS][Hu1]</s>"
    ids = vocabulary.encode(text)
    assert vocabulary.render(ids) == text
    assert vocabulary.decode(ids)[:4] == ["<s>", "[Text]", "Ġand", "Ġthey"]
    assert ids[-3:] == [vocabulary.tts_marker, vocabulary.first_unit + 1, vocabulary.eos]


@pytest.mark.parametrize("bad", ["[Hu501]", "[Hu3x", "[Hu03]", "[Pi3]", "[St7]", "[Hu3", "x [Hu4 y"])
def test_a_malformed_token_is_an_error_and_never_text(bad):
    with pytest.raises(ValueError, match=r"(Hu|Pi|St)\d"):
        toy_vocabulary().encode(bad)


def test_task_markers_are_an_error_where_the_vocabulary_has_none():
    with pytest.raises(ValueError, match=r"'\[ASR\]': not in this vocabulary"):
        toy_vocabulary(tasks=False).encode("[ASR]")


def test_a_saved_vocabulary_is_the_same_when_loaded(tmp_path, monkeypatch):
    vocabulary = toy_vocabulary(64, 100)
    path = vocabulary.save(tmp_path)
    monkeypatch.chdir(tmp_path)
    for loaded in (Vocabulary.load(path), Vocabulary.load(tmp_path), Vocabulary.load("vocabulary.json")):
        assert (loaded.hash, loaded.names) == (vocabulary.hash, vocabulary.names)
    before = path.read_bytes()
    Vocabulary.load(path).save(tmp_path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tokenizer.json", "vocabulary.json"]


@pytest.mark.parametrize(
    ("key", "value"), [("units", 500), ("pitch", 3), ("hash", "0"), ("text", 7), ("format", "x")]
)
def test_a_changed_vocabulary_file_is_refused_by_name(tmp_path, key, value):
    path = toy_vocabulary().save(tmp_path)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {key: value}))
    with pytest.raises(ValueError, match=r"vocabulary\.json"):
        Vocabulary.load(path)


def test_a_vocabulary_file_without_a_hash_of_its_tokenizer_is_refused(tmp_path):
    path = toy_vocabulary().save(tmp_path)
    record = json.loads(path.read_text())
    del record["tokenizer"]["sha256"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"vocabulary\.json: not a usable vocabulary: 'sha256'"):
        Vocabulary.load(path)


def test_a_changed_tokenizer_file_is_refused_by_name(tmp_path):
    toy_vocabulary().save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace('"Ġthe"', '"Ġteh"'))
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Vocabulary.load(tmp_path)


def test_the_order_of_keys_in_the_file_does_not_matter(tmp_path):
    path = toy_vocabulary().save(tmp_path)
    record = list(json.loads(path.read_text()).items())
    random.Random(0).shuffle(record)
    path.write_text(json.dumps(dict(record)))
    assert Vocabulary.load(path).names == toy_vocabulary().names


def test_a_tokenizer_that_already_has_speech_tokens_is_refused(tmp_path):
    train_bpe(["text"], tmp_path / "tokenizer.json", size=300)
    record = json.loads((tmp_path / "tokenizer.json").read_text())
    record["added_tokens"].append(
        record["added_tokens"][0] | {"id": record["added_tokens"][1]["id"] + 300, "content": "[Hu7]"}
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="Hu7"):
        Vocabulary(load_tokenizer(tmp_path))


# Text --------------------------------------------------------------------------------------------------------------


def sentencepiece_model(path):
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([" ".join(WORDS)] * 20),
            model_writer=file,
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return path


@pytest.fixture(params=["bpe", "sentencepiece", "metaspace"])
def tokenizer(request, tmp_path):
    if request.param == "bpe":
        return train_bpe([" ".join(WORDS)], tmp_path / "tokenizer.json", size=320)
    if request.param == "sentencepiece":
        return load_tokenizer(sentencepiece_model(tmp_path / "toy.model"))
    return load_tokenizer(metaspace_folder(tmp_path))


def metaspace_folder(folder):
    """A Llama-like folder: the dummy prefix is the tokenizer's own work, and ids have a hole."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<unk>", "<|begin|>", "<|end|>"], show_progress=False
    )
    backend.train_from_iterator([" ".join(WORDS) + ", by so word on."] * 3, trainer)
    record = json.loads(backend.to_str())
    added = {"content": "<|extra|>", "special": True, "single_word": False, "lstrip": False, "rstrip": False}
    record["added_tokens"].append(added | {"normalized": False, "id": len(record["model"]["vocab"]) + 5})
    record["model"]["vocab"]["<|extra|>"] = len(record["model"]["vocab"]) + 5
    (folder / "tokenizer.json").write_text(json.dumps(record))
    (folder / "tokenizer_config.json").write_text(
        '{"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}}'
    )
    assert AddedToken
    return folder


def test_words_tokenised_alone_are_slices_of_the_sentence(tokenizer):
    ids, ends = tokenizer.encode_words(WORDS)
    assert ids.tolist() == tokenizer.encode(" ".join(WORDS)) == tokenizer.encode_text(WORDS).tolist()
    cuts = [0, *ends]
    assert [tokenizer.decode(ids[a:b]) for a, b in itertools.pairwise(cuts)] == WORDS
    assert tokenizer.decode(ids[cuts[3] : cuts[7]]) == " ".join(WORDS[3:7])


def test_special_tokens_are_never_read_from_text(tokenizer):
    forbidden = {tokenizer.bos, tokenizer.eos}
    assert forbidden - {None}
    assert not forbidden & set(tokenizer.encode("a <s> </s> <|end|> <|begin|> b"))


def test_a_tokenizer_can_be_pickled_to_another_process(tokenizer):
    import pickle

    again = pickle.loads(pickle.dumps(tokenizer))
    assert (again.sha256, again.bos, again.eos, again.pieces) == (
        tokenizer.sha256,
        tokenizer.bos,
        tokenizer.eos,
        tokenizer.pieces,
    )


def test_a_gap_in_the_ids_of_a_tokenizer_folder_is_kept(tmp_path):
    tokenizer = load_tokenizer(metaspace_folder(tmp_path))
    holes = [i for i, piece in enumerate(tokenizer.pieces) if piece is None]
    assert len(holes) == 5
    assert tokenizer.size == holes[-1] + 2
    assert (tokenizer.pieces[tokenizer.bos], tokenizer.pieces[tokenizer.eos]) == ("<|begin|>", "<|end|>")
    vocabulary = Vocabulary(tokenizer)
    assert vocabulary.text_marker == tokenizer.size
    assert vocabulary.decode([holes[0]]) == [f"[Unused {holes[0]}]"]
    with pytest.raises(ValueError, match="Unused"):
        vocabulary.encode(vocabulary.decode([holes[0]]))


@given(st.lists(WORD, min_size=1, max_size=8))
@settings(deadline=None, max_examples=100)
def test_byte_level_bpe_gives_back_any_words(words):
    tokenizer = toy_vocabulary().tokenizer
    ids, ends = tokenizer.encode_words(words)
    cuts = [0, *ends]
    assert [tokenizer.decode(ids[a:b]) for a, b in itertools.pairwise(cuts)] == words


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=100)
def test_byte_level_bpe_gives_back_any_text(text):
    tokenizer = toy_vocabulary().tokenizer
    text = text.encode("utf-8", "ignore").decode()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_same_texts_train_the_same_bytes(tmp_path):
    texts = [" ".join(random.Random(i).sample(WORDS, 9)) for i in range(50)]
    first = train_bpe(texts, tmp_path / "a.json", size=400)
    second = train_bpe(iter(texts), tmp_path / "b.json", size=400)
    assert first.content == second.content
    assert (first.bos, first.eos, first.pieces[:2]) == (0, 1, ("<s>", "</s>"))


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=8), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_a_bpe_trained_on_counted_words_is_that_of_the_texts(texts, times):
    texts = [*texts, "they'll go,  they go ' 12 's."] * times * 40
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    reference = tokenizers.Tokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    reference.train_from_iterator((f" {text}" for text in texts), trainer)
    with tempfile.TemporaryDirectory() as folder:
        counted = train_bpe(texts, Path(folder) / "tokenizer.json", size=320)
    assert json.loads(counted.content)["model"] == json.loads(reference.to_str())["model"]


def test_a_missing_or_broken_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match="neither"):
        load_tokenizer(tmp_path)
    for name in ("tokenizer.json", "toy.model"):
        (tmp_path / name).write_bytes(b"{}")
        with pytest.raises(ValueError, match=name):
            load_tokenizer(tmp_path / name)
    with pytest.raises(ValueError, match="at least 258"):
        train_bpe(["x"], tmp_path / "c.json", size=100)


@given(st.lists(WORD, max_size=8))
@settings(deadline=None, max_examples=100)
def test_pieces_of_words_are_those_of_their_text(words):
    assert count_pieces(Counter(words)) == count_words([" ".join(words)])
