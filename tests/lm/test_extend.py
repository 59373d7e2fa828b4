"""lm/extend.py and lm/export.py: a text model gains speech, and goes back to transformers."""

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import wordweave
from lm.export import export, make_tokenizer
from lm.extend import add_speech_tokens, new_rows
from lm.generate import load, prompt
from lm.model import Model, preset
from shards.text import load_tokenizer
from shards.vocabulary import Vocabulary
from tests.helpers.lm import toy_vocabulary


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return toy_vocabulary(tmp_path_factory.mktemp("text"))


def text_model(folder, rows, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=rows, **shape, **changes)).to(dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("initialise", ["random", "covariance"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_text_rows_and_all_other_weights_stay_to_the_bit(initialise, tied, dtype, vocabulary, tmp_path):
    source = text_model(tmp_path / "text", vocabulary.text_size + 6, dtype, tie_word_embeddings=tied)
    before = load_file(source / "model.safetensors")
    after = load_file(
        add_speech_tokens(source, vocabulary, tmp_path / "out", initialise=initialise) / "model.safetensors"
    )
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if "embed" in name or "head" in name:
            assert after[name].shape[0] == vocabulary.padded_size
            assert after[name].dtype == dtype
            assert torch.equal(after[name][: vocabulary.text_size], tensor[: vocabulary.text_size])
        else:
            assert torch.equal(after[name], tensor)


def test_text_logits_of_an_extended_model_are_the_old_ones(vocabulary, tmp_path):
    source = text_model(tmp_path / "text", vocabulary.text_size)
    model, loaded = load(add_speech_tokens(source, vocabulary, tmp_path / "out"))
    tokens = torch.arange(20)[None]
    assert loaded.hash == vocabulary.hash
    size = vocabulary.text_size
    torch.testing.assert_close(model(tokens)[..., :size], Model.from_pretrained(source)(tokens))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


def test_one_seed_gives_one_extension_and_another_base_is_written(vocabulary, tmp_path):
    source = text_model(tmp_path / "text", vocabulary.text_size)
    files = [
        (
            add_speech_tokens(source, vocabulary, tmp_path / name, seed=seed, rope_theta=100_000.0)
            / "model.safetensors"
        ).read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert files[0] == files[1] != files[2]
    assert Model.from_pretrained(tmp_path / "a").settings.rope_theta == 100_000.0
    assert (
        AutoModelForCausalLM.from_pretrained(tmp_path / "a").config.rope_parameters["rope_theta"] == 100_000.0
    )


def test_new_rows_have_the_mean_and_covariance_of_the_text_rows():
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(500, 3, generator=generator, dtype=torch.float64) @ torch.tensor(
        [[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0.0, 0.0, 0.1]], dtype=torch.float64
    )
    rows = new_rows(text + 5, 200_000, None, generator)
    assert torch.allclose(rows.mean(0), (text + 5).mean(0), atol=0.02)
    assert torch.allclose(torch.cov(rows.T), torch.cov(text.T), atol=0.05)


def no_rows(vocabulary, folder):
    return text_model(folder, vocabulary.text_size - 1)


def speaking(vocabulary, folder):
    source = text_model(folder / "x", vocabulary.text_size)
    return add_speech_tokens(source, vocabulary, folder / "y")


def nothing(vocabulary, folder):
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_rows, "make the vocabulary with the model's own tokenizer"),
        (speaking, "has speech rows already"),
        (nothing, r"config.json: no such file"),
    ],
)
def test_a_model_that_cannot_be_extended_is_one_clear_line(make, message, vocabulary, tmp_path):
    with pytest.raises(ValueError, match=message):
        add_speech_tokens(make(vocabulary, tmp_path), vocabulary, tmp_path / "out")


def test_a_wrong_rule_and_writing_over_the_source_are_refused(vocabulary, tmp_path):
    source = text_model(tmp_path, vocabulary.text_size)
    with pytest.raises(ValueError, match="initialise: need 'random' or 'covariance', got 'zero'"):
        add_speech_tokens(source, vocabulary, tmp_path / "out", initialise="zero")
    with pytest.raises(ValueError, match="is the source itself"):
        add_speech_tokens(source, vocabulary, source)


@pytest.fixture
def exported(vocabulary, tmp_path):
    torch.manual_seed(0)
    model = Model(preset("nano", vocabulary.padded_size, hidden_size=32))
    model.save_pretrained(tmp_path / "run", vocabulary_hash=vocabulary.hash)
    vocabulary.save(tmp_path / "run")
    return export(tmp_path / "run", tmp_path / "out")


def test_the_exported_tokenizer_gives_our_ids_and_their_text_back(exported, vocabulary):
    tokenizer = AutoTokenizer.from_pretrained(exported)
    ids = [
        vocabulary.bos,
        *prompt([("text", "the cat sat"), ("speech", "[Hu3][Hu39]"), ("text", "on")], vocabulary)[1:],
    ]
    written = vocabulary.render(ids)
    assert written == "<s>[Text] the cat sat[Speech][Hu3][Hu39][Text] on"
    assert tokenizer.encode(written, add_special_tokens=False) == ids
    assert tokenizer.decode(ids) == written
    assert tokenizer.decode(ids, skip_special_tokens=True) == written.removeprefix("<s>")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (vocabulary.bos, vocabulary.eos)


def test_an_export_opens_in_transformers_and_here(exported, vocabulary):
    ours, loaded = load(exported)
    tokens = torch.arange(30)[None]
    theirs = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)
    assert loaded.hash == vocabulary.hash


def test_an_export_over_its_source_is_refused(exported):
    with pytest.raises(ValueError, match="is the source itself"):
        export(exported, exported)


@pytest.fixture
def sentencepiece_text(tmp_path):
    """Trains a SentencePiece model; takes its kind and rule."""
    from sentencepiece import SentencePieceTrainer

    def make(kind, rule):
        texts = [f"the cat sat on {i} mats and one dog ran out of his house" for i in range(60)]
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_prefix=str(tmp_path / "tokenizer"),
            vocab_size=330,
            model_type=kind,
            byte_fallback=True,
            hard_vocab_limit=False,
            normalization_rule_name=rule,
            minloglevel=2,
        )
        return load_tokenizer(tmp_path / "tokenizer.model")

    return make


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
def test_a_sentencepiece_model_is_exported_with_its_ids_and_comes_back(
    kind, rule, sentencepiece_text, tmp_path
):
    vocabulary = Vocabulary(sentencepiece_text(kind, rule), units=40)
    Model(preset("nano", vocabulary.padded_size, hidden_size=32)).save_pretrained(
        tmp_path / "run", vocabulary_hash=vocabulary.hash
    )
    vocabulary.save(tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(export(tmp_path / "run", tmp_path / "out"))
    prompt_parts = [("text", "the dog ran, ünïcödé 5"), ("speech", "[Hu3][Hu39]"), ("text", "on")]
    ids = prompt(prompt_parts, vocabulary)
    written = vocabulary.render(ids)
    assert written == "<s>[Text] the dog ran, ünïcödé 5[Speech][Hu3][Hu39][Text] on"
    assert tokenizer.encode(written, add_special_tokens=False) == ids
    assert tokenizer.decode(ids) == written
    assert load(tmp_path / "out")[1].hash == vocabulary.hash


def test_a_sentencepiece_model_of_another_kind_is_one_clear_line(sentencepiece_text):
    vocabulary = Vocabulary(sentencepiece_text("bpe", "nmt_nfkc_cf"), units=40)  # this rule folds upper case
    with pytest.raises(ValueError, match=r"tokenizer\.model: this SentencePiece model splits text in a way"):
        make_tokenizer(vocabulary)


def test_the_front_door_extends_a_text_model_and_exports_it(vocabulary, tmp_path):
    text_model(tmp_path / "text", vocabulary.text_size)
    vocabulary.save(tmp_path / "build" / "shards")
    steps = (
        ["add-speech-tokens", "text", "build", "speaking", "--rope-theta", "100000"],
        ["export-model", "speaking", "exported"],
    )
    for name, *words in steps:
        places = [word if word[0] in "-1" else str(tmp_path / word) for word in words]
        done = CliRunner().invoke(wordweave.cli, [name, *places])
        assert done.exit_code == 0, done.output
    model, loaded = load(tmp_path / "exported")
    assert loaded.hash == vocabulary.hash
    assert model.settings.rope_theta == 100_000
    again = CliRunner().invoke(wordweave.cli, ["export-model", str(tmp_path / "gone"), str(tmp_path / "out")])
    assert (again.exit_code, len(again.output.splitlines())) == (1, 1), again.output
