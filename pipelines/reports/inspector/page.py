"""Write the inspector into BUILD/report: the page, what it loads, the data as JavaScript files, and audio."""

import dataclasses
import hashlib
import io
import json
from collections import Counter, deque
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jinja2 import Environment, PackageLoader

from corpus import files
from corpus.records import SAMPLE_RATE
from pipelines.layout import INDEX, finished_part, part_names
from pipelines.reports.inspector.compare import Summary, differences, summarise
from pipelines.reports.inspector.overview import Overview, Place
from pipelines.reports.inspector.sample import Detail, Reader
from pipelines.settings import Settings
from pipelines.steps.base import Run
from shards.vocabulary import Vocabulary

ASSETS = (
    "inspector.css", "inspector.js", "vendored/LICENSES.txt", "vendored/uPlot.iife.min.js", "vendored/uPlot.min.css",
    "vendored/wavesurfer.min.js", "vendored/wavesurfer.regions.min.js", "vendored/wavesurfer.timeline.min.js",
)  # fmt: skip
"""Files of pipelines/data/inspector that the page loads, and the licences of those that are third-party."""
AUDIO_BYTES = 10_000_000
"""Of audio in one report, about ten minutes; utterances beyond that are shown without a player."""
SPOKEN = 8
"""Utterances that are played from their units too."""
POINTS = 500
"""Of a training curve."""
SUMMARY, PREVIOUS = "summary.json", "previous.json"


def start_overview(run: Run) -> Overview:
    """The sums over a build, before the first part."""
    shards = run.build / "shards"
    clusters = Vocabulary.load(shards).units if (run.build / INDEX).is_file() else run.settings.units.clusters
    return Overview(run.settings, clusters)


def write_inspector(
    run: Run, report: Mapping[str, Any], overview: Overview, against: Path | None = None
) -> None:
    """Write report/index.html and what it loads; the same build gives the same bytes.

    Args:
        report: as in report.json.
        overview: to which every part was added.
        against: another build that has a report, to compare with.

    Raises:
        ValueError: the other build has no report.
    """
    folder = run.build / "report"
    result = overview.result(unit_rate(run))
    facts = {"settings": build_settings(run.settings), **provenance(run.build)}
    summary = summarise(report, result, facts)
    earlier = keep_summary(folder, summary)
    data: dict[str, Any] = {
        "build": run.build.name,
        "report": report,
        "parts": {"shown": overview.parts, "all": len(part_names(run.build))},
        **result,
        "settings": changed_settings(run.settings),
        "provenance": provenance(run.build),
        "training": training(run.build),
        "evaluation": evaluation(run.build),
        "changes": differences(earlier, summary) if earlier else None,
        "against": None,
    }
    if against is not None:
        data["against"] = {"build": against.name, "rows": read_differences(against, run.build)}
    earlier_speech = read_speech(folder)
    for name in ("assets", "data", "media"):
        files.remove_folder(folder / name)
    for name in ASSETS:
        content = resources.files("pipelines").joinpath("data/inspector", name).read_bytes()
        files.write(folder / "assets" / Path(name).name, content)
    data["utterances"] = write_utterances(run, overview.strata(), folder, earlier_speech)
    files.write(folder / "data" / "overview.js", script("overview", data))
    page = Environment(loader=PackageLoader("pipelines", "data/inspector"), autoescape=True).get_template(
        "index.html"
    )
    files.write(folder / "index.html", page.render(build=run.build.name, report=report).encode())


def script(name: str, value: Any) -> bytes:
    """A classic script that hands JSON to the page: a page from file:// may not fetch.

    >>> script("overview", {"text": "</script>\\u2028"})
    b'wordweave("overview", {"text": "</script>\\\\u2028"});\\n'
    """
    return f"wordweave({json.dumps(name)}, {json.dumps(value, allow_nan=False)});\n".encode()


def read_speech(folder: Path) -> dict[str, bytes]:
    """The resynthesised recordings of a report, by their names, which change with all that they are made of."""
    paths = sorted((folder / "media").glob("*-resynthesis.wav"))
    return {path.name: files.read(path) for path in paths}


def write_utterances(
    run: Run, strata: Mapping[str, list[Place]], folder: Path, earlier_speech: Mapping[str, bytes]
) -> list[Detail]:
    """Write the details and audio of the sample; what the list of the page shows of each, in the order of the strata.

    Strata take turns until the audio is AUDIO_BYTES long. What `earlier_speech` has is not synthesised again.
    """
    places = in_turns(strata)
    details: dict[Place, Detail] = {}
    audio: dict[Place, bytes] = {}
    for place, detail, content in Reader(run).read(places):
        details[place] = detail
        if content is not None:
            audio[place] = content
    from pipelines.operations.vocode import stored_tokens

    listed, size, links = [], 0, make_links(details)
    vocoder = open_vocoder(run)
    spoken = 0
    for number, place in enumerate(places):
        detail, content = details[place], audio.get(place)
        if content is not None and size + len(content) > AUDIO_BYTES:
            detail["problem"], content = "left out: the audio of the sample is limited to 10 MB", None
        if content is not None:
            size += len(content)
            detail["audio"] = f"media/{number:03d}.flac"
            files.write(folder / detail["audio"], content)
            if (
                vocoder is not None
                and spoken < SPOKEN
                and detail["units"]
                and detail["shown"] == detail["seconds"]
            ):
                tokens, frames = stored_tokens(run.build, detail["id"])
                made_of = json.dumps([vocoder.name, tokens, frames]).encode() + content
                name = f"{number:03d}-{hashlib.sha256(made_of).hexdigest()[:16]}-resynthesis.wav"
                speech = earlier_speech.get(name) or speak(vocoder, tokens, frames, content)
                if size + len(speech) <= AUDIO_BYTES:
                    size += len(speech)
                    detail["resynthesis"] = f"media/{name}"
                    detail["vocoder"] = vocoder.name
                    files.write(folder / detail["resynthesis"], speech)
                spoken += 1
        file = f"data/{number:03d}.js"
        files.write(folder / file, script(file, detail))
        row = {
            name: detail[name]
            for name in ("id", "speaker", "language", "seconds", "outcome", "reason", "strata")
        }
        numbers = {name: detail["measures"].get(name) for name in ("mean_confidence", "agreement_ms")}
        words = len(detail["words"]) or None
        listed.append(
            {**row, **numbers, "link": links[place], "words": words, "text": detail["text"], "file": file}
        )
    return listed


def open_vocoder(run: Run) -> Any:
    """The bundled vocoder, or None for a build whose units it was not made for."""
    if not run.settings.units.is_bundled:
        return None
    from pipelines.operations.vocode import speaker_of

    return speaker_of(run.build)[0]


def speak(vocoder: Any, tokens: str, frames: list[int], flac: bytes) -> bytes:
    """A WAV of an utterance from its tokens, in the voice of its recording."""
    from lm.speaker import wav_bytes

    recording, _ = soundfile.read(io.BytesIO(flac), dtype="float32")
    return wav_bytes(np.concatenate(list(vocoder.like(recording).pieces(tokens, frames))))


def make_links(details: Mapping[Place, Detail]) -> dict[Place, str]:
    """The name of each utterance in links: its id, and "ID (2)" of the rejected one where an id occurs twice."""
    seen: Counter[str] = Counter()
    links = {}
    for place, detail in sorted(details.items(), key=lambda item: (item[1]["reason"] is not None, item[0])):
        seen[detail["id"]] += 1
        links[place] = detail["id"] if seen[detail["id"]] == 1 else f"{detail['id']} ({seen[detail['id']]})"
    return links


def in_turns(strata: Mapping[str, list[Place]]) -> dict[Place, list[str]]:
    """Places -> the names of their strata; one place of each stratum after another.

    >>> in_turns({"typical": [("a", 0), ("a", 1)], "longest": [("a", 1)]})
    {('a', 0): ['typical'], ('a', 1): ['longest', 'typical']}
    """
    rest = {name: deque(places) for name, places in strata.items()}
    ordered: dict[Place, list[str]] = {}
    while any(rest.values()):
        for name, places in rest.items():
            if places:
                ordered.setdefault(places.popleft(), []).append(name)
    return ordered


def unit_rate(run: Run) -> float | None:
    """Units per second; None where no row has any."""
    names = part_names(run.build)
    return SAMPLE_RATE / finished_part(run.build, "units", names[0], "units")["hop"] if names else None


def build_settings(settings: Settings) -> dict[str, Any]:
    """The settings of a build but for the folder it is in."""
    return {name: value for name, value in dataclasses.asdict(settings).items() if name != "build"}


def changed_settings(settings: Settings) -> dict[str, list[list[Any]]]:
    """Section -> [name, value, whether it differs from the default] of every setting."""
    defaults = dataclasses.asdict(Settings())
    return {
        section: [[name, value, value != defaults[section][name]] for name, value in values.items()]
        for section, values in build_settings(settings).items()
    }


def provenance(build: Path) -> dict[str, Any]:
    """What provenance.json holds besides the settings; nothing before there are shards."""
    path = build / "provenance.json"
    content = json.loads(path.read_bytes()) if path.is_file() else {}
    return {name: value for name, value in content.items() if name != "settings"}


def training(build: Path) -> dict[str, Any] | None:
    """The mixture and the curves of the model trained in the build's folder, at most POINTS points each."""
    path = build / "model" / "log.jsonl"
    if not path.is_file():
        return None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    tests = [line for line in lines if "held_out" in line]
    settings = path.parent / "settings.json"
    return {
        "mixture": json.loads(settings.read_bytes()).get("mixture") if settings.is_file() else None,
        "loss": [[line["tokens"], line["loss"]] for line in steps[:: len(steps) // POINTS + 1]],
        "held_out": {
            stream: {
                "unigram_entropy": scores["unigram_entropy"],
                "loss": [
                    [line["tokens"], line["held_out"][stream]["loss"]]
                    for line in tests[:: len(tests) // POINTS + 1]
                ],
            }
            for stream, scores in (tests[-1]["held_out"] if tests else {}).items()
        },
    }


def evaluation(build: Path) -> list[dict[str, Any]] | None:
    """Results of `wordweave evaluate` in the build's folder, in their order, as [value, low, high] by measure."""
    path = build / "evaluation" / "results.json"
    if not path.is_file():
        return None
    rows = []
    for row in json.loads(path.read_bytes())["rows"]:
        numbers = {
            name: row["accuracy"][f"ending.{name}.free"]
            for name in ("sum", "mean")
            if f"ending.{name}.free" in row.get("accuracy", {})
        }
        if "paired_accuracy" in row:
            numbers["paired accuracy"] = row["paired_accuracy"]
        if "value" in row:
            numbers[row.get("measure", "value")] = [row["value"], row["low"], row["high"]]
        for measure, values in (numbers or {row.get("not_run", "not run"): None}).items():
            rows.append(
                {
                    "testset": row["testset"],
                    "direction": row["direction"],
                    "measure": measure,
                    "values": values,
                }
            )
    return rows


def keep_summary(folder: Path, summary: Summary) -> Summary | None:
    """Write summary.json; the summary of the build before its last change, which previous.json keeps."""
    current, previous = folder / SUMMARY, folder / PREVIOUS
    content = json.dumps(summary, indent=1).encode()
    old = files.read(current) if current.is_file() else None
    if old is not None and old != content:
        files.write(previous, old)
    files.write(current, content)
    return json.loads(files.read(previous)) if previous.is_file() else None


def read_differences(before: Path, after: Path) -> list[list[Any]]:
    """`compare.differences` of two builds that have reports.

    Raises:
        ValueError: one has none.
    """
    return differences(read_summary(before), read_summary(after))


def read_summary(build: Path) -> Summary:
    """The summary of a build.

    Raises:
        ValueError: it has no report.
    """
    path = build / "report" / SUMMARY
    if not path.is_file():
        raise ValueError(
            f"{build}: need a build with a report, got none; run `wordweave report {build}` first"
        )
    return json.loads(files.read(path))
