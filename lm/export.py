"""Write a trained model as `transformers` and vLLM read it, with a tokenizer that knows the speech tokens."""

import shutil
from pathlib import Path

from lm.generate import load
from shards.vocabulary import Vocabulary


def export(source: str | Path, output: str | Path) -> Path:
    """Copy a model directory (a checkpoint, or `best/` of a run) into a Hugging Face directory with tokenizer files.

    Its tokenizer reads what `Vocabulary.render` writes, "<s>[Text] the cat[Speech][Hu3][Hu5]": names in brackets are
    tokens, and text after `[Text]` starts with a space. They are no "special" tokens, so decoding with
    skip_special_tokens keeps them. `lm.generate.load` opens the directory too.

    Raises:
        ValueError: the source is no model of ours, or its tokenizer cannot hold further tokens at the right ids.
    """
    source, output = Path(source), Path(output)
    if source.resolve() == output.resolve():
        raise ValueError(f"{output}: is the source itself; write elsewhere")
    _, vocabulary = load(source)  # refuses what is damaged or does not fit together
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(vocabulary)
    tokenizer.save_pretrained(output)
    vocabulary.save(output / "vocabulary")
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(source / name, output / name)
    return output


def make_tokenizer(vocabulary: Vocabulary):  # type: ignore[no-untyped-def]  # a transformers tokenizer
    """The text tokenizer with all further tokens of the vocabulary, at their ids."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    text = vocabulary.tokenizer
    if text.file != "tokenizer.json":
        raise ValueError(
            f"{text.file}: only a tokenizer.json can be exported; convert it with transformers first"
        )
    backend = Tokenizer.from_str(text.content.decode())
    new = vocabulary.names[vocabulary.text_size : vocabulary.size]
    backend.add_tokens([AddedToken(name, normalized=False, special=False) for name in new])
    moved = [name for i, name in enumerate(new, vocabulary.text_size) if backend.token_to_id(name) != i]
    if moved:
        raise ValueError(
            f"{text.file}: its ids have holes, so {moved[0]} cannot have its id; export is not possible"
        )
    special = {
        f"{role}_token": text.pieces[i] for role, i in (("bos", text.bos), ("eos", text.eos)) if i is not None
    }
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)
