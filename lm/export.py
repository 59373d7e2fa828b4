"""Export a trained model for `transformers` and vLLM, with a tokenizer that has the speech tokens."""

import itertools
from pathlib import Path

from corpus import files
from lm.generate import load
from shards.text import Tokenizer as Text
from shards.vocabulary import Vocabulary

_PROBES = ("they went out together", "two  spaces", "Ünïcödé ﬁne ① ½", "你好 😀", "1,234.5 (no-one's)")


def export(source: str | Path, output: str | Path, *, harness: bool = False) -> Path:
    """Write a trained model (a checkpoint, sharded or not, or `best/` of a run) as a Hugging Face directory.

    Its tokenizer reads what `Vocabulary.render` writes, "<s>[Text] the cat[Speech][Hu3][Hu5]": names in brackets are
    tokens, and text after `[Text]` starts with a space. They are not "special" tokens, so decoding with
    skip_special_tokens keeps them. `lm.generate.load` opens the directory too.

    Args:
        harness: for lm-evaluation-harness: the tokenizer itself begins text as training does, with BOS, `[Text]` and a
            space.

    Raises:
        ValueError: the source is no model of this project, or its tokenizer cannot hold more tokens at the right ids.
    """
    source, output = files.to_path(source), Path(output)
    if source.resolve() == output.resolve():
        raise ValueError(f"{output}: is the source itself; name another folder")
    model, vocabulary = load(source)  # refuses damaged files and ones that do not match
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(vocabulary)
    if harness:
        begin_as_text(tokenizer.backend_tokenizer, vocabulary)
    tokenizer.save_pretrained(output)
    vocabulary.save(output / "vocabulary")
    model.save_pretrained(
        output, vocabulary_hash=vocabulary.hash, bos_token_id=vocabulary.bos, eos_token_id=vocabulary.eos
    )
    return output


def make_tokenizer(vocabulary: Vocabulary):  # type: ignore[no-untyped-def]  # a transformers tokenizer
    """The text tokenizer with all other tokens of the vocabulary, at their ids."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    text = vocabulary.tokenizer
    if text.file == "tokenizer.json":
        backend = Tokenizer.from_str(text.content.decode())
    else:
        backend = from_sentencepiece(text)
    new = vocabulary.names[vocabulary.text_size : vocabulary.size]
    backend.add_tokens([AddedToken(name, normalized=False, special=False) for name in new])
    misplaced = [name for i, name in enumerate(new, vocabulary.text_size) if backend.token_to_id(name) != i]
    if misplaced:
        raise ValueError(
            f"{text.file}: its ids have holes, so {misplaced[0]} cannot have its id; export is not possible"
        )
    special = {
        f"{role}_token": text.pieces[i] for role, i in (("bos", text.bos), ("eos", text.eos)) if i is not None
    }
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)


def begin_as_text(backend, vocabulary: Vocabulary) -> None:  # type: ignore[no-untyped-def]  # a tokenizers.Tokenizer
    """Let a tokenizer begin every text as a text sequence of training begins: BOS, text marker, a space."""
    from tokenizers import normalizers, processors

    steps = [normalizers.Prepend(" "), *([backend.normalizer] if backend.normalizer is not None else [])]
    backend.normalizer = normalizers.Sequence(steps)
    first = [i for i in (vocabulary.bos, vocabulary.text_marker) if i is not None]
    names = [backend.id_to_token(i) for i in first]
    backend.post_processor = processors.TemplateProcessing(
        single=[*names, "$A"], pair=[*names, "$A", "$B"], special_tokens=list(zip(names, first, strict=True))
    )


def from_sentencepiece(text: Text):  # type: ignore[no-untyped-def]  # a tokenizers.Tokenizer
    """A SentencePiece model for `tokenizers`, which gives the same ids to text that starts with a space.

    The file's own settings need a protobuf newer than Beam's; so every likely way to read its pieces is tried, and
    the first one that agrees on all pieces and some difficult texts is used.

    Raises:
        ValueError: no way agrees.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    spm = text._model._backend
    pieces = [spm.id_to_piece(i) for i in range(text.size)]
    ids = {piece: i for i, piece in enumerate(pieces)}
    plain = [i for i in ids.values() if not (spm.is_control(i) or spm.is_unknown(i) or spm.is_byte(i))]
    content = "".join(pieces[i] for i in plain).replace("▁", " ")
    probes = [*_PROBES, *(content[i : i + 1000].strip() for i in range(0, len(content), 1000))]
    has_bytes = any(spm.is_byte(i) for i in ids.values())

    def bpe() -> models.Model:
        pairs = []  # a better piece is merged before a worse one
        for i in sorted(plain, key=lambda i: -spm.get_score(i)):
            halves = [(pieces[i][:cut], pieces[i][cut:]) for cut in range(1, len(pieces[i]))]
            known = [(a, b) for a, b in halves if a in ids and b in ids]
            pairs += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        unknown = pieces[spm.unk_id()]
        return models.BPE(ids, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes)

    def unigram() -> models.Model:
        scored = [(piece, spm.get_score(i)) for i, piece in enumerate(pieces)]
        return models.Unigram(scored, unk_id=spm.unk_id(), byte_fallback=has_bytes)

    ways = ((), (normalizers.NFKC(),)), ((), (normalizers.Replace(Regex(" +"), " "),))
    for model in (bpe(), unigram()):
        backend = Tokenizer(model)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence(steps)
        for first, second in itertools.product(*ways):
            backend.normalizer = normalizers.Sequence([*first, *second])
            if all(backend.encode(f" {probe}").ids == text.encode(probe) for probe in probes if probe):
                return backend
    raise ValueError(
        f"{text.file}: this SentencePiece model splits text in a way that `tokenizers` cannot reproduce; "
        f"train with the model's tokenizer.json instead"
    )
