"""A bundled encoder from nothing: stages of pre-training one after the other, then the codebook of its units.

OUTPUT/stage-1, stage-2, ... hold what each stage left; OUTPUT itself holds the last one's encoder, codebook.safetensors
beside it (codebook-3.safetensors too, where layer 3 is to have one), pretraining.json with settings, hashes and curve,
and README.md, the same for a reader.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpus.keyed import generator
from units import kmeans
from units.encoders import Encoder, codebook_name, load_encoder
from units.pretraining.augment import with_noise
from units.pretraining.networks import frame_grid
from units.pretraining.train import PretrainSettings, Progress, Recording, is_used, pretrain

NOISY = 3
"""One recording in N is added to the k-means data a second time, in noise."""
SNR = (10.0, 30.0)  # dB, of that white noise
MOST_FRAMES = 200_000
AT_ONCE = 16  # recordings encoded together
ENCODER_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


@dataclass(frozen=True)
class Recipe:
    """Settings of each stage, of which every one but the first starts where the one before it ended."""

    stages: tuple[PretrainSettings, ...]
    clusters: int = 501
    lower: tuple[int, ...] = ()  # layers under the last one that get a codebook too: less exact, faster
    codebook_leave_out: tuple[
        str, ...
    ] = ()  # speakers that the codebook is not fitted on, by how names begin

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("recipe.stages: need at least one, got none")
        if self.clusters < 2:
            raise ValueError(f"recipe.clusters: need at least 2, got {self.clusters}")
        layers = self.stages[-1].network.layers
        if not all(isinstance(layer, int) and 0 < layer < layers for layer in self.lower):
            raise ValueError(f"recipe.lower: need layers from 1 to {layers - 1}, got {list(self.lower)}")


def stage_folder(output: Path, number: int) -> Path:
    """Where stage `number`, from 1, is trained."""
    return output / f"stage-{number}"


def follow(
    recordings: Sequence[Recording],
    recipe: Recipe,
    output: str | Path,
    *,
    resume: bool = False,
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Train the stages of a recipe, fit the codebook, and write the card.

    Args:
        recordings: all, as for `pretrain`.
        resume: a finished stage is not redone, one that was interrupted resumes exactly, the others start.
        progress: is called with each line of the stages' logs, with `stage` in it.

    Returns:
        JSON-able summary: `steps` and `seconds` of all stages, `clusters`, `inertia`.

    Raises:
        ValueError: as `pretrain`, or fewer frames than clusters.
    """
    output = Path(output)
    grid = frame_grid(recipe.stages[-1].network)
    left_out = recipe.codebook_leave_out
    used = [
        r.waveform
        for r in recordings
        if is_used(r, recipe.stages[-1]) and not (left_out and r.speaker.startswith(left_out))
    ]
    frames = sum(grid.frames(len(wave)) for wave in used)
    if frames < recipe.clusters:  # said now, not after hours of training
        raise ValueError(
            f"recipe.clusters: need at most the number of frames, {frames}, got {recipe.clusters}"
        )
    summaries = []
    output.mkdir(parents=True, exist_ok=True)
    for number, settings in enumerate(recipe.stages, start=1):
        folder = stage_folder(output, number)
        summaries.append(
            pretrain(
                recordings,
                settings,
                folder,
                resume=resume and (folder / "checkpoint.safetensors").exists(),
                cache=output,
                progress=lambda line, number=number: progress({"stage": number} | line),  # type: ignore[misc]
            )
        )
    encoder_files = [name for name in ENCODER_FILES if (folder / name).exists()]
    for name in encoder_files:
        shutil.copyfile(folder / name, output / name)
    seed, books = settings.seed, {}
    for layer in (None, *recipe.lower):
        name, encoder = codebook_name(layer), load_encoder(output, layer=layer)
        if not (resume and is_fitted(output / name, encoder, recipe.clusters, seed)):
            fit_codebook(encoder, used, recipe.clusters, seed).save(output / name)
        books[name] = kmeans.load(output / name)
    book = books[codebook_name(None)]
    stages = [
        {"stage": number, **summary, "curve": read_curve(stage_folder(output, number))}
        for number, summary in enumerate(summaries, start=1)
    ]
    files = {
        name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in (*encoder_files, *books)
    }
    written = {"seed": seed, "files": files, "stages": stages, "codebook": book.provenance}
    (output / "pretraining.json").write_text(
        json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    (output / "README.md").write_text(card(written), encoding="utf-8")
    return {
        "steps": sum(summary["steps"] for summary in summaries),
        "seconds": round(sum(summary["seconds"] for summary in summaries), 1),
        "clusters": book.clusters, "inertia": book.provenance["inertia"],
    }  # fmt: skip


def fit_codebook(
    encoder: Encoder, waveforms: Sequence[np.ndarray], clusters: int, seed: int
) -> kmeans.Codebook:
    """k-means++ on features of the waveforms, every third of them once more in white noise."""
    rng = generator(seed, "codebook noise")
    noisy = [with_noise(wave, rng.uniform(*SNR), 1_000_003 + i) for i, wave in enumerate(waveforms[::NOISY])]
    training = [*waveforms, *noisy]
    features = np.concatenate(
        [
            frames
            for start in range(0, len(training), AT_ONCE)
            for frames in encoder.encode(training[start : start + AT_ONCE])
        ]
    )
    if len(features) > MOST_FRAMES:
        features = features[np.sort(rng.choice(len(features), MOST_FRAMES, replace=False))]
    return kmeans.fit(
        features,
        clusters=clusters,
        seed=seed,
        iterations=25,
        seeding="k-means++",
        device="cpu",
        encoder=encoder,
    )


def is_fitted(path: Path, encoder: Encoder, clusters: int, seed: int) -> bool:
    """Whether the codebook of this encoder is there already."""
    if not path.exists():
        return False
    book = kmeans.load(path)
    return (book.provenance["encoder"], book.clusters, book.provenance["seed"]) == (
        encoder.provenance,
        clusters,
        seed,
    )


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """The lines of a stage's log, to four digits."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: round(v, 4) if isinstance(v, float) else v for name, v in line.items()} for line in lines]


def card(written: dict[str, Any]) -> str:
    """What was trained on what, and the curve, as Markdown."""
    first, book = written["stages"][0], written["codebook"]
    data = first["data"]
    targets = sorted(
        {name for stage in written["stages"] for name in stage["settings"]["targets"]} | {"cosine"}
    )
    columns = [f"{which}{name}" for name in targets for which in ("unmasked_", "validation_unmasked_")]
    columns = [
        name for name in columns if any(name in line for s in written["stages"] for line in s["curve"])
    ]
    heads = [name.replace("_unmasked_", ", ").replace("unmasked_", "") for name in columns]
    lines = [
        "# An encoder and its units",
        "",
        f"Seed {written['seed']}. {data['recordings']} recordings, {data['seconds'] / 60:.1f} minutes,",
        f"{data['speakers']} speakers; SHA-256 of ids, speakers and samples `{data['sha256']}`.",
    ]
    if "phones" in data:
        lines += [
            f"Phones of {data['phones']['recordings']} of them, file of SHA-256 `{data['phones']['sha256']}`."
        ]
    if "teacher" in data:
        lines += [f"Teacher: identity `{data['teacher']}`, block {first['settings']['teacher']['layer']}."]
    lines += [
        f"Codebook: {book['clusters']} clusters of {book['frames']} frames, inertia {book['inertia']:.2f};",
        f"every third recording was added a second time in white noise of {SNR[0]:g} to {SNR[1]:g} dB.",
        "",
        "Accuracy of clusters, and cosine to the teacher, on frames that were not masked: in training's noise and, for",
        "validation speakers, without:",
        "",
        f"| stage | step | minutes | rate | loss | {' | '.join(heads)} |",
        f"|{'---|' * (5 + len(heads))}",
    ]
    spent = 0.0
    for stage in written["stages"]:
        curve = stage["curve"]
        shown = curve[:: -max(1, len(curve) // 6)][::-1]  # six or so, and the last
        for line in shown:
            cells = [f"{line[name]:.3f}" if name in line else "" for name in columns]
            minutes = (spent + line["seconds"]) / 60
            lines.append(
                f"| {stage['stage']} | {line['step']} | {minutes:.1f} | {line['rate']:.4f} | {line['loss']:.3f} | "
                f"{' | '.join(cells)} |"
            )
        spent += stage["seconds"]
    return "\n".join([*lines, "", "Settings, hashes and the whole curve: `pretraining.json`.", ""])
