"""Pre-training a compact HuBERT: predict clusters of masked frames, and of frames in noise.

A step takes crops of a few recordings and makes two views of each: one nearly as recorded, one in noise, in another
room. Stretches of both are masked. Every frame of both predicts the clusters of the recording as it was (masked frames
count once, others half), and the two views are pulled towards the same features, so that noise moves few units.

A step is made from (seed, step) alone, so that a run resumes exactly from any checkpoint.

Source: Hsu et al. 2021 (HuBERT), arXiv:2106.07447; targets of undisturbed speech behind disturbed input as in Chen et
al. 2022 (WavLM), arXiv:2110.13900. What is ours was measured, see docs/benchmarks.md.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from corpus.keyed import generator
from corpus.records import SAMPLE_RATE
from units.pretraining.augment import AugmentSettings, at_speed, disturbed, make_noises
from units.pretraining.checkpoint import (
    WEIGHTS,
    open_log,
    read_checkpoint,
    read_finished,
    save_encoder,
    take_weights,
    write_checkpoint,
)
from units.pretraining.networks import (
    NORMALIZE_EPSILON,
    CosineHead,
    NetworkSettings,
    frame_grid,
    make_student,
    start_from_whisper,
)
from units.pretraining.targets import (
    KINDS,
    LEAST,
    UNKNOWN,
    Labels,
    cluster,
    logmel_features,
    mfcc_features,
    own_features,
    phone_labels,
    read_phones,
)
from units.pretraining.teacher import (
    TeacherFeatures,
    TeacherSettings,
    load_teacher,
    teach,
    teacher_clusters,
)

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of `pretrain`; as TOML in config/encoder/pure.toml."""

    targets: dict[str, int] = field(default_factory=lambda: {"logmel": 100, "mfcc": 200})
    phones: str = ""  # file of phones, for the target of that name
    start: str = ""  # folder of an encoder to continue from; "own" targets are clusters of its features
    own_layer: int = 5
    steps: int = 10_000
    end: int = 0  # step it ends at while rates are still as for `steps`; 0: at `steps`
    warmup: int = 300
    hold: float = 0.4  # share of the steps at full rate, before it falls along a cosine
    rate: float = 1e-3
    weight_decay: float = 0.01
    crop_seconds: tuple[float, ...] = (2.0, 3.0, 4.0, 6.0)
    batch_seconds: float = 24.0  # that the network sees in a step
    mask: tuple[float, float] = (0.3, 0.6)  # share of frames masked, drawn per row
    span: int = 5  # frames masked in a row
    weights: dict[str, float] = field(default_factory=dict)  # of targets in the loss; 1 where none is given
    cosine: tuple[
        str, ...
    ] = ()  # targets scored by cosine, which shapes what k-means will see; others linearly
    unmasked_weight: float = 0.5
    consistency: float = (
        0.0  # above 0: weight of the loss that pulls two views of each crop towards each other
    )
    validation: tuple[str, ...] = ()  # speakers
    leave_out: tuple[str, ...] = ()  # speakers that are not even read
    shares: dict[str, float] = field(
        default_factory=dict
    )  # how speakers' names begin -> their share of the crops; others share what is left
    random_position: float = (
        0.0  # of a Whisper: probability that a batch is at another place of the positions
    )
    fit_frames: int = 200_000
    seed: int = 0
    device: str = "cpu"
    autocast: bool = False  # bfloat16 for matrix products: where the processor has them, several times faster
    report_every: int = 100
    checkpoint_every: int = 300
    keep_every: int = 0  # steps between encoders kept in OUTPUT/kept; 0: none
    network: NetworkSettings = field(default_factory=NetworkSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)

    def __post_init__(self) -> None:
        unknown = sorted(self.targets.keys() - set(KINDS))
        if unknown or not (self.targets or self.distils):
            raise ValueError(f"pretrain.targets: need some of {list(KINDS)}, got {sorted(self.targets)}")
        if "phones" in self.targets and not self.phones:
            raise ValueError("pretrain.phones: need the file that the target 'phones' is read from")
        if "teacher" in self.targets and not self.teacher.path:
            raise ValueError(
                "pretrain.teacher.path: need the directory of the encoder that the target clusters"
            )
        if self.teacher.initialise and (self.start or not self.teacher.path):
            raise ValueError("pretrain.teacher.initialise: need a teacher and no other encoder to start from")
        if sum(self.shares.values()) > 1 or min(self.shares.values(), default=0) < 0:
            raise ValueError(f"pretrain.shares: need shares from 0 that sum to at most 1, got {self.shares}")
        if "own" in self.targets and not self.start:
            raise ValueError("pretrain.start: need the encoder whose features the target 'own' clusters")
        for name in ("steps", "span", "report_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"pretrain.{name}: need at least 1, got {getattr(self, name)}")
        if not 0 <= self.end <= self.steps:
            raise ValueError(f"pretrain.end: need a step up to steps, {self.steps}, got {self.end}")
        if not 0 <= self.mask[0] <= self.mask[1] < 1:
            raise ValueError(f"pretrain.mask: need shares 0 <= low <= high < 1, got {self.mask}")
        if (
            not self.crop_seconds
            or min(self.crop_seconds) < 0.5
            or self.batch_seconds < max(self.crop_seconds)
        ):
            raise ValueError(
                "pretrain.crop_seconds: need lengths from 0.5 s to batch_seconds, "
                f"got {self.crop_seconds} and {self.batch_seconds}"
            )

    @property
    def last_step(self) -> int:
        """Where it ends."""
        return self.end or self.steps

    @property
    def distils(self) -> bool:
        """Whether features of a teacher are learnt."""
        return bool(self.teacher.path) and self.teacher.weight > 0


@dataclass(frozen=True)
class Recording:
    """An utterance to learn from: (T,) float32 at 16 kHz."""

    id: str
    speaker: str
    waveform: np.ndarray


class Speech:
    """Recordings, and where the batch of a step is cut from."""

    def __init__(self, recordings: Sequence[Recording], settings: PretrainSettings, speeds: Sequence[int]):
        self.settings, self.speeds = settings, list(speeds)
        self.recordings = list(recordings)
        self.samples = [to_int16(recording.waveform) for recording in self.recordings]
        seconds = np.array([len(samples) / SAMPLE_RATE for samples in self.samples])
        weights = seconds * crop_weights(
            seconds, [recording.speaker for recording in self.recordings], settings.shares
        )
        self.order = np.argsort(seconds, kind="stable")  # by length: a batch is cut from neighbours
        self.ends = np.cumsum(weights[self.order])
        self.noises = make_noises(settings.seed)
        self.grid = frame_grid(settings.network)

    def crops(self, rng: np.random.Generator) -> tuple[list[tuple[int, int, int]], int]:
        """((recording, speed, first sample at that speed) of each, samples of all): of neighbours in length.

        One recording is drawn by its share of the speech, then the others near it, so that in a batch no crop has to
        be cut to the length of a much shorter one.
        """
        wanted = float(rng.choice(self.settings.crop_seconds))
        rows = max(1, int(self.settings.batch_seconds / wanted / (2 if self.settings.consistency else 1)))
        middle = rng.uniform(0, self.ends[-1])
        reach = max(0.15 * self.ends[-1], rows * wanted)
        places = np.clip(middle + rng.uniform(-reach, reach, rows), 0, self.ends[-1] - 1e-6)
        chosen = self.order[np.searchsorted(self.ends, places, side="right")]
        speeds = rng.integers(len(self.speeds), size=rows)
        lengths = [len(self.samples[i]) * 25 // self.speeds[s] for i, s in zip(chosen, speeds, strict=True)]
        samples = min(int(wanted * SAMPLE_RATE), *lengths)
        starts = [int(rng.integers(length - samples + 1)) for length in lengths]
        return [(int(i), int(s), start) for i, s, start in zip(chosen, speeds, starts, strict=True)], samples

    def cut(self, recording: int, speed: int, start: int, samples: int) -> np.ndarray:
        """(samples,) float32 of a recording at a speed; zeros beyond its ends."""
        ratio = self.speeds[speed] / 25
        first, last = round(start * ratio), round(start * ratio) + int(np.ceil(samples * ratio)) + 1
        whole = self.samples[recording]
        part = np.pad(
            whole[max(0, first) : max(0, last)], (max(0, -first), max(0, last - max(len(whole), first)))
        )
        played = at_speed(part.astype(np.float32) / 32767, self.speeds[speed])[:samples]
        return np.pad(played, (0, samples - len(played)))

    def batch(
        self, step: int, targets: Sequence[Labels], teacher: TeacherFeatures | None, *, disturb: bool = True
    ) -> "Batch":
        """The batch of a step: the first half of the rows are first views, the second half second views of the same."""
        settings = self.settings
        rng = generator(settings.seed, "step", str(step))
        crops, samples = self.crops(rng)
        frames = self.grid.frames(samples)
        centres = self.grid.centre + self.grid.hop * np.arange(frames)
        views: list[list[np.ndarray]] = [[], []]
        labels: dict[str, list[np.ndarray]] = {target.name: [] for target in targets}
        taught: list[np.ndarray] = []
        for i, s, start in crops:
            positions = (start + centres) * (self.speeds[s] / 25)
            for target in targets:
                labels[target.name].append(target.at(i, positions))
            if teacher:
                taught.append(teacher.at(i, positions))
            if not disturb:
                views[0].append(self.cut(i, s, start, samples))
                continue
            j, t, begin = crops[int(rng.integers(len(crops)))]
            other = self.cut(j, t, begin, samples) if j != i else np.zeros(samples, np.float32)
            # the first of two views is the quieter one
            noises = (1 / 3, 1.0) if settings.consistency else (0.5,)
            for view, noise in zip(views, noises, strict=False):
                moved = round(
                    rng.uniform(-settings.augment.shift, settings.augment.shift) * SAMPLE_RATE / 1000
                )
                crop = self.cut(i, s, start + moved, samples)
                noise *= settings.augment.noise
                view.append(disturbed(crop, settings.augment, self.noises, other, rng, noise=noise))
        waveforms = normalized(np.stack(views[0] + views[1]))
        if disturb:
            gains = rng.uniform(-settings.augment.gain, settings.augment.gain, (len(waveforms), 1))
            waveforms *= (10 ** (gains / 20)).astype(np.float32)
        moved_on = rng.random() < settings.random_position
        place = float(rng.random()) if disturb and moved_on else 0.0
        several = 2 if views[1] else 1
        mask = np.stack([draw_mask(frames, rng, settings) for _ in crops])
        return Batch(
            torch.from_numpy(waveforms),
            torch.from_numpy(np.concatenate([mask] * several)),
            {name: torch.from_numpy(np.stack(rows * several)) for name, rows in labels.items()},
            torch.from_numpy(np.stack(taught * several)) if teacher else None,
            place,
        )


def crop_weights(seconds: np.ndarray, speakers: Sequence[str], shares: dict[str, float]) -> np.ndarray:
    """(R,) by how much more often than its length a recording is cropped, so that groups of speakers get their shares.

    >>> crop_weights(np.array([1.0, 3.0]), ["a1", "b1"], {"b": 0.5}).round(2).tolist()
    [2.0, 0.67]
    """
    group = np.array(
        [next((name for name in shares if speaker.startswith(name)), "") for speaker in speakers]
    )
    weights = np.ones(len(seconds))
    wanted = shares | {"": 1 - sum(shares.values())}
    for name in sorted(set(group)):
        own = group == name
        weights[own] = wanted[name] / (seconds[own].sum() / seconds.sum())
    return weights


@dataclass(frozen=True)
class Batch:
    """(B, T) float32 waveforms, (B, F) bool mask, (B, F) int64 labels of each target, (B, F, D) of the teacher.

    `place`: where among the positions of the network the frames are, from 0 to 1.
    """

    waveforms: torch.Tensor
    mask: torch.Tensor
    labels: dict[str, torch.Tensor]
    taught: torch.Tensor | None = None
    place: float = 0.0


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Half the memory; a peak above 1 is brought back to 1, so that nothing clips."""
    return np.round(waveform * (32767 / max(1.0, float(np.abs(waveform).max(initial=0.0))))).astype(np.int16)


def normalized(waveforms: np.ndarray) -> np.ndarray:
    """(B, T) -> (B, T) float32, each row of mean 0 and variance 1, as the encoder does it before anything else."""
    centred = waveforms - waveforms.mean(axis=1, keepdims=True)
    return (centred / np.sqrt(centred.var(axis=1, keepdims=True) + NORMALIZE_EPSILON)).astype(np.float32)


def draw_mask(frames: int, rng: np.random.Generator, settings: PretrainSettings) -> np.ndarray:
    """(F,) bool: spans that cover about the drawn share of the frames, overlaps counted."""
    share = rng.uniform(*settings.mask)
    starts = rng.random(frames) < 1 - (1 - share) ** (1 / settings.span)
    mask = np.zeros(frames, bool)
    for shift in range(min(settings.span, frames)):
        mask[shift:] |= starts[: frames - shift]
    return mask


class Pretrainer(torch.nn.Module):
    """A student with a head for each target, and one onto the teacher's features where their widths differ."""

    def __init__(self, settings: PretrainSettings, targets: Sequence[tuple[str, int]], taught: int = 0):
        super().__init__()
        width = settings.network.width
        self.student = make_student(settings.network)
        self.heads = torch.nn.ModuleDict(
            {
                name: (CosineHead if name in settings.cosine else torch.nn.Linear)(width, classes)
                for name, classes in targets
            }
        )
        self.regression = torch.nn.Linear(width, taught) if taught not in (0, width) else torch.nn.Identity()

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(B, F, D) features and (B, F, K) scores for each target."""
        features = self.student.features(batch.waveforms, batch.mask, batch.place)
        return features, {name: head(features) for name, head in self.heads.items()}


def make_targets(
    recordings: Sequence[Recording],
    settings: PretrainSettings,
    training: Sequence[int],
    teacher: TeacherFeatures | None,
) -> list[Labels]:
    """Labels of all recordings for each target; clusters learnt from the training speakers' alone."""
    targets = []
    for name, classes in settings.targets.items():
        if name == "phones":
            ids, waves = [r.id for r in recordings], [r.waveform for r in recordings]
            labels = phone_labels(settings.phones, ids, waves)
            if labels.classes != classes:
                raise ValueError(
                    f"{settings.phones}: has {labels.classes} phones with silence, targets.phones is {classes}"
                )
            targets.append(labels)
            continue
        if name == "teacher":
            assert teacher
            lengths = [len(recording.waveform) for recording in recordings]
            targets.append(
                teacher_clusters(
                    teacher,
                    lengths,
                    clusters=classes,
                    seed=settings.seed,
                    learn_from=training,
                    limit=settings.fit_frames,
                )
            )
            continue
        if name == "own":
            from units.encoders import load_encoder

            encoder = load_encoder(settings.start, settings.own_layer)
            features = [own_features(encoder, recording.waveform) for recording in recordings]
        else:
            function = {"mfcc": mfcc_features, "logmel": logmel_features}[name]
            features = [function(recording.waveform) for recording in recordings]
        targets.append(
            cluster(
                name,
                features,
                clusters=classes,
                seed=settings.seed,
                learn_from=training,
                limit=settings.fit_frames,
            )
        )
    return targets


def rate_at(step: int, settings: PretrainSettings) -> float:
    """Learning rate of a step: rises over `warmup`, holds, falls along a cosine to a hundredth."""
    hold = settings.hold * settings.steps
    if step < settings.warmup:
        return settings.rate * (step + 1) / settings.warmup
    if step < hold:
        return settings.rate
    done = (step - hold) / max(1.0, settings.steps - hold)
    return settings.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def loss_of(
    features: torch.Tensor,
    scores: dict[str, torch.Tensor],
    predicted: torch.Tensor,
    batch: Batch,
    settings: PretrainSettings,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a batch, and its parts: `masked` and `unmasked` accuracy of each target, cosine, `consistency`.

    Args:
        predicted: (B, F, D) the student's guess of the teacher's features.
    """
    total = features.new_zeros(())
    parts: dict[str, float] = {}
    weights = (("masked", batch.mask, 1.0), ("unmasked", ~batch.mask, settings.unmasked_weight))
    if batch.taught is not None:
        predicted = predicted.float()
        cosine = F.cosine_similarity(predicted, batch.taught, dim=-1)
        losses = F.smooth_l1_loss(predicted, batch.taught, reduction="none").mean(dim=-1) + 1 - cosine
        for which, part, weight in weights:
            count = part.sum().clamp(min=1)
            total = total + settings.teacher.weight * weight * (losses * part).sum() / count
            parts[f"{which}_cosine"] = float((cosine.detach() * part).sum() / count)
    for name, logits in scores.items():
        labels = batch.labels[name]
        losses = F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=UNKNOWN, reduction="none"
        )
        right = (logits.detach().argmax(dim=-1) == labels).flatten()
        known = (labels != UNKNOWN).flatten()
        for which, part, weight in weights:
            chosen = known & part.flatten()
            count = chosen.sum().clamp(min=1)
            total = total + settings.weights.get(name, 1.0) * weight * (losses * chosen).sum() / count
            parts[f"{which}_{name}"] = float((right & chosen).sum() / count)
    if not settings.consistency or not features.requires_grad:
        parts["loss"] = float(total.detach())
        return total, parts
    half = len(features) // 2
    one, other = features[:half].float(), features[half:].float()
    unmasked = ~batch.mask[:half].unsqueeze(-1)
    spread = one.detach().var(dim=(0, 1)).mean().clamp(min=1e-4)
    apart = (((one.detach() - other) ** 2) * unmasked).sum() / (
        unmasked.sum().clamp(min=1) * features.shape[-1]
    )
    apart = apart / spread
    parts["consistency"] = float(apart.detach())
    total = total + settings.consistency * apart
    parts["loss"] = float(total.detach())
    return total, parts


def pretrain(
    recordings: Sequence[Recording],
    settings: PretrainSettings,
    output: str | Path,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    cache: str | Path | None = None,
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Train an encoder and save it in Hugging Face format in `output`; with checkpoints beside it while it runs.

    Args:
        recordings: all, those of validation speakers too; too short ones are counted in `too_short`.
        resume: continue from the checkpoint in `output`; the settings and data must be those it was made with. What is
            finished is not done again.
        stop_after: end at this step as if interrupted, with a checkpoint.
        cache: folder of the teacher's features; default: `output`.
        progress: is called with each line that `output`/log.jsonl gets.

    Returns:
        JSON-able summary, also in `output`/pretraining.json: settings, data (recordings, seconds, speakers, SHA-256),
        steps, seconds of training, and the last lines.

    Raises:
        ValueError: nothing to train on, no recording of a speaker held out, no checkpoint to resume, or one of other
            settings or data.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    speakers = {r.speaker for r in recordings}
    for name in ("validation", "leave_out"):  # a misspelt one would be trained on
        if missing := sorted(set(getattr(settings, name)) - speakers):
            some = f"{len(speakers)} speakers, among them {sorted(speakers)[:5]}"
            raise ValueError(
                f"pretrain.{name}: need speakers of the recordings, got {missing}; they have {some}"
            )
    chosen = [r for r in recordings if r.speaker not in settings.leave_out]
    usable = [r for r in chosen if len(r.waveform) >= LEAST]
    training = [i for i, r in enumerate(usable) if is_used(r, settings)]
    validation = [i for i, r in enumerate(usable) if r.speaker in settings.validation]
    if not training:
        raise ValueError("pretrain: need recordings of speakers that are not held out, got none")
    data: dict[str, Any] = {
        "recordings": len(training), "seconds": round(sum(len(usable[i].waveform) for i in training) / SAMPLE_RATE, 2),
        "speakers": len({usable[i].speaker for i in training}), "sha256": data_hash([usable[i] for i in training]),
        "validation_recordings": len(validation), "too_short": len(chosen) - len(usable),
    }  # fmt: skip
    if "phones" in settings.targets:
        phones_of = read_phones(settings.phones)
        data["phones"] = {
            "sha256": hashlib.sha256(Path(settings.phones).read_bytes()).hexdigest(),
            "recordings": sum(bool(phones_of.get(usable[i].id)) for i in training),
        }
    if settings.start:
        data["start"] = hashlib.sha256((Path(settings.start) / WEIGHTS).read_bytes()).hexdigest()
    if settings.teacher.path:
        data["teacher"] = load_teacher(settings.teacher).identity
    requested = json.loads(json.dumps({"settings": asdict(settings), "data": data}))
    if resume and (finished := read_finished(output, requested, settings.last_step)):
        return finished
    teacher = None
    if settings.teacher.path:
        waveforms = [recording.waveform for recording in usable]
        teacher = teach(
            waveforms, settings.teacher, Path(cache or output), data=data_hash(usable), learn_from=training
        )
    targets = make_targets(usable, settings, training, teacher)
    speech = Speech([usable[i] for i in training], settings, settings.augment.speeds)
    learnt = [Labels(t.name, t.classes, [t.of[i] for i in training]) for t in targets]
    taught = teacher if settings.distils else None
    checks: list[Batch] = []
    if validation:
        quiet = Speech([usable[i] for i in validation], settings, (25,))
        answers = [Labels(t.name, t.classes, [t.of[i] for i in validation]) for t in targets]
        checked = taught.subset(validation) if taught else None
        checks = [quiet.batch(2**40 + i, answers, checked, disturb=False) for i in range(4)]
    torch.manual_seed(settings.seed)
    width = taught.dimension if taught else 0
    model = Pretrainer(settings, [(target.name, target.classes) for target in targets], width)
    if settings.start:
        take_weights(model, Path(settings.start))
    if settings.teacher.initialise:
        start_from_whisper(model.student, Path(settings.teacher.path))
    taught = taught.subset(training) if taught else None
    model.to(settings.device)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings), lr=settings.rate, betas=(0.9, 0.98), eps=1e-6
    )
    step, spent = 0, 0.0
    sums: dict[str, float] = {}
    if resume:
        step, spent, sums = read_checkpoint(output, model, optimizer, requested)
    log = open_log(output / "log.jsonl", step)
    last: dict[str, Any] = {}
    begun = time.monotonic()
    end = settings.last_step if stop_after is None else min(stop_after, settings.last_step)
    with log:
        while step < end:
            model.train()
            batch = on_device(speech.batch(step, learnt, taught), settings.device)
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, settings)
            torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout
            kind = torch.device(settings.device).type
            with torch.autocast(kind, torch.bfloat16, enabled=settings.autocast):
                features, scores = model(batch)
                predicted = model.regression(features)
            loss, parts = loss_of(features, scores, predicted, batch, settings)
            if not math.isfinite(parts["loss"]):
                raise ValueError(f"pretrain: the loss is {parts['loss']} at step {step}; lower `rate`")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
            if step % settings.report_every == 0 or step == settings.last_step:
                count = (step - 1) % settings.report_every + 1
                last = {"step": step, "seconds": round(spent + time.monotonic() - begun, 1)}
                last |= {"rate": rate_at(step - 1, settings)} | {
                    name: value / count for name, value in sums.items()
                }
                last |= {
                    f"validation_{name}": value for name, value in check(model, checks, settings).items()
                }
                log.write(json.dumps(last) + "\n")
                log.flush()
                progress(last)
            if step % settings.report_every == 0:
                sums = {}
            if settings.keep_every and step % settings.keep_every == 0:
                save_encoder(model, output / "kept" / f"{step:06d}")
            if (step % settings.checkpoint_every == 0 and step % settings.report_every == 0) or step == end:
                write_checkpoint(
                    output, model, optimizer, step, spent + time.monotonic() - begun, requested, sums
                )
    if step == settings.last_step:
        save_encoder(model, output)
    summary = {
        **requested,
        "steps": step,
        "seconds": round(spent + time.monotonic() - begun, 1),
        "last": last,
    }
    (output / "pretraining.json").write_text(
        json.dumps(summary, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    return summary


def is_used(recording: Recording, settings: PretrainSettings) -> bool:
    """Whether a recording is long enough and of a speaker to learn from."""
    held_out = (*settings.leave_out, *settings.validation)
    return len(recording.waveform) >= LEAST and recording.speaker not in held_out


def data_hash(recordings: Sequence[Recording]) -> str:
    """SHA-256 over ids, speakers and samples as 16-bit integers."""
    digest = hashlib.sha256()
    for recording in recordings:
        digest.update(f"{recording.id} {recording.speaker} {len(recording.waveform)} ".encode())
        digest.update(to_int16(recording.waveform).tobytes())
    return digest.hexdigest()


def parameter_groups(model: torch.nn.Module, settings: PretrainSettings) -> list[dict[str, Any]]:
    """Matrices decay, biases and norms do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def on_device(batch: Batch, device: str) -> Batch:
    """The batch on a device."""
    labels = {name: labels.to(device) for name, labels in batch.labels.items()}
    taught = None if batch.taught is None else batch.taught.to(device)
    return Batch(batch.waveforms.to(device), batch.mask.to(device), labels, taught, batch.place)


@torch.no_grad()
def check(model: Pretrainer, batches: Sequence[Batch], settings: PretrainSettings) -> dict[str, float]:
    """Accuracies and loss on batches of validation speakers, undisturbed, without dropout."""
    model.eval()
    lines = []
    for batch in batches:
        batch = on_device(batch, settings.device)
        kind = torch.device(settings.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=settings.autocast):
            features, scores = model(batch)
            predicted = model.regression(features)
        lines.append(loss_of(features, scores, predicted, batch, settings)[1])
    model.train()
    return {name: sum(line[name] for line in lines) / len(lines) for name in (lines[0] if lines else {})}
