"""What a build's tokens keep of recordings."""

from pathlib import Path
from typing import Any

import click

from commands.cli import FOLDER, cli, command


@command(cli)
@click.argument("build", type=FOLDER)
@click.option("--pack", "named", type=FOLDER, help="Recordings of this pack; without one, of BUILD's own.")
@click.option(
    "--count", type=click.IntRange(min=1), default=50, help="Utterances of BUILD's own.", show_default=True
)
@click.option(
    "--vocoder", help="Command that speaks tokens: JSON on stdin, the WAV to write as last argument."
)
@click.option("--recogniser", help="Command that prints what a WAV, its last argument, says.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON; default BUILD/evaluation/resynthesis.json.",
)
def resynthesis(
    build: Path,
    named: Path | None,
    count: int,
    vocoder: str | None,
    recogniser: str | None,
    output: Path | None,
) -> dict[str, Any]:
    """Measure what units, pitch and style keep.

    Bits per second, F0 decoded from pitch tokens, labels told by tokens; with a vocoder also what comes out of it.
    The paper's numbers stand beside.
    """
    from lm.evaluation import results as scoreboard
    from lm.evaluation.evaluate import write_results
    from lm.evaluation.resynthesis import Recording, Tokenizers, check
    from lm.evaluation.testset import read_pack
    from pipelines.build import drawn_speech, recall
    from pipelines.steps.prosody import model_path
    from pipelines.tokenize import models
    from shards.vocabulary import Vocabulary
    from units.prosody import pitch, style

    if named is None:
        name, version = build.name, "own recordings"
        recordings = [
            Recording(one.id, text=one.text, wave=wave) for one, wave in drawn_speech(build, count, "units")
        ]
    else:
        pack = read_pack(named)
        name, version = pack.name, pack.version
        recordings = [
            Recording(item.id, pack.folder / part.audio, part.text, item.label, item.split)
            for item in pack.items
            for part in item.context
            if part.audio is not None
        ]
    settings = recall(build)
    encoder, codebook = models(build)
    tokenizers = Tokenizers(
        lambda wave: codebook.assign(encoder.encode([wave])[0]),
        encoder.hop,
        Vocabulary.load(build / "shards").units,
        pitch.load(model_path(build, settings.pitch.model, "pitch")) if settings.pitch.use else None,
        style.load(model_path(build, settings.style.codebook, "style")) if settings.style.use else None,
    )
    found = check(recordings, tokenizers, name=name, version=version, vocoder=vocoder, recogniser=recogniser)
    beside = scoreboard.compare(found["rows"])
    for line in (scoreboard.heading(), *(line.said() for line in beside)):
        click.echo(line)
    path = output or build / "evaluation" / "resynthesis.json"
    write_results(path, found | {"beside": [line._asdict() for line in beside]})
    return {"results": str(path), "seconds": found["seconds"], "bits_per_second": found["bits"]["nominal"]}
