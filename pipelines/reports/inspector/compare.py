"""What differs between two builds, or between a build and what it was before its last change."""

from collections.abc import Mapping
from typing import Any

Summary = dict[str, Any]
"""`metrics`, a number or null by "group: name", and `facts`, text by name: settings, versions, hashes."""


def summarise(report: Mapping[str, Any], overview: Mapping[str, Any], facts: Mapping[str, Any]) -> Summary:
    """The numbers of a build that are worth comparing.

    Args:
        report: as in report.json.
        overview: `Overview.result`.
        facts: nested settings, versions and hashes.
    """
    metrics: dict[str, float | None] = {}
    for name in ("in", "out", "cut_away", "rejected", "interleaved", "speech_alone"):
        label = name.replace("_", " ")
        metrics |= {
            f"hours: {label}": report[name]["hours"],
            f"utterances: {label}": report[name]["utterances"],
        }
    metrics |= {f"rejected hours: {reason}": entry["hours"] for reason, entry in report["reasons"].items()}
    for group, entry in overview["groups"].items():
        metrics[f"count: {group}s"] = entry["count"]
    for stream, entry in report.get("shards", {}).items():
        metrics |= {f"tokens: {stream}, {kind}": count for kind, count in sorted(entry["tokens"].items())}
    units = overview["units"] or {}
    for name in ("used", "dead", "perplexity", "bitrate", "bitrate_deduplicated", "runs_per_second"):
        metrics[f"units: {name.replace('_', ' ')}"] = units.get(name)
    metrics |= {f"median: {name}": entry["median"] for name, entry in overview["measures"].items()}
    for kind, lengths in overview["spans"].items():
        count = sum(number for _, number in lengths)
        metrics[f"words per span: {kind}"] = (
            sum(n * number for n, number in lengths) / count if count else None
        )
    return {"metrics": metrics, "facts": flatten(facts)}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values by dotted name, as text.

    >>> flatten({"align": {"backend": "ctc", "limits": {}}, "commit": None})
    {'align.backend': 'ctc', 'commit': ''}
    """
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = "" if value is None else str(value)
    return flat


def differences(before: Summary, after: Summary) -> list[list[Any]]:
    """[name, before, after] of every number and fact that is not the same in both; null where one has none.

    >>> one, two = {"metrics": {"hours: in": 1.0}, "facts": {}}, {"metrics": {"hours: in": 1.5}, "facts": {"a": "b"}}
    >>> differences(one, two)
    [['hours: in', 1.0, 1.5], ['a', None, 'b']]
    """
    rows = []
    for kind in ("metrics", "facts"):
        names = dict.fromkeys([*after[kind], *before[kind]])
        pairs = ((name, before[kind].get(name), after[kind].get(name)) for name in names)
        rows += [[name, old, new] for name, old, new in pairs if old != new]
    return rows
