"""Speech of the phoneme discovery benchmark discophon, where a user has it, for `wordweave compare`.

Source of the layout: github.com/bootphon/discophon, docs/guide/prepare.md (alignment, item and audio of a language).
"""

from collections import defaultdict
from pathlib import Path

from corpus.audio import decode, probe
from corpus.records import Reject, Utterance
from pipelines.reports.encoder_comparison import LabelledUtterance, Phones
from units.abx import SILENCES, Token, read_items

SPLITS = ("dev", "test")


def read_discophon(
    data: Path, name: str, rejects: dict[str, int]
) -> tuple[list[LabelledUtterance], list[Token]]:
    """Recordings with phones, and the tokens of its triphone item file.

    Args:
        data: the folder of the benchmark: `audio/LANGUAGE/SPLIT/*.wav`, `alignment/alignment-LANGUAGE-SPLIT.txt` and
            `item/triphone-LANGUAGE-SPLIT.item`.
        name: LANGUAGE-SPLIT, such as "eng-test".
        rejects: counts recordings that are left out, by reason.

    Raises:
        ValueError: another name, a file is missing or broken, or no recording of it can be read.
    """
    language, _, split = name.partition("-")
    if not language or split not in SPLITS:
        raise ValueError(f"discophon: need LANGUAGE-dev or LANGUAGE-test, such as eng-test, got {name!r}")
    alignment, item = data / "alignment" / f"alignment-{name}.txt", data / "item" / f"triphone-{name}.item"
    for path in (alignment, item):
        if not path.is_file():
            raise ValueError(
                f"{path}: no such file; prepare the benchmark with `python -m discophon.prepare`"
            )
    phones = read_alignment(alignment)
    audio = {path.stem: path for path in sorted((data / "audio" / language / split).rglob("*.wav"))}
    names, waves = [], []
    for id in sorted(phones):
        try:
            if id not in audio:
                raise Reject("audio.missing", id)
            header = probe(audio[id])
            waves.append(decode(Utterance(id, str(audio[id]), header.frames, header.sample_rate)))
            names.append(id)
        except Reject as reject:
            rejects[reject.reason] = rejects.get(reject.reason, 0) + 1
    if not names:
        raise ValueError(
            f"{data}: need a recording of {alignment.name} that can be read, got none: {rejects}"
        )
    tokens = read_items(item, names)
    speakers = {names[token.utterance]: token.speaker for token in tokens}
    items = [
        LabelledUtterance(wave, phones[id], speakers.get(id, ""))
        for id, wave in zip(names, waves, strict=True)
    ]
    return items, tokens


def read_alignment(path: Path) -> dict[str, Phones]:
    """Phones of each recording from lines `file onset offset phone` under a header; silence is left out."""
    phones: dict[str, Phones] = defaultdict(list)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            name, start, end, phone = line.split()
            if number == 1 and name == "#file":
                continue
            row = (phone, float(start), float(end))
        except ValueError as error:
            raise ValueError(
                f"{path}: line {number}: need `file onset offset phone`, got {line!r}"
            ) from error
        phones[name] += [row] if phone not in SILENCES else []
    return phones
