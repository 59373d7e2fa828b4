"""The planner: what is to do and why; a corpus that grows leaves finished work alone."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from benchmarks.plan_speed import measure
from corpus.manifest import parts, write_manifest
from corpus.records import Utterance
from pipelines import layout
from pipelines.build import run_step
from pipelines.execution.planner import plan
from pipelines.execution.runner import run_stage
from pipelines.execution.task import make_task, read_marker
from tests.helpers.builds import LOCAL, build_settings, fit_units, hashes, members
from tests.helpers.stage import Copy, copies
from tests.pipelines.test_task import Add, part


def add_task(stage, name, digest="d"):
    return make_task(stage, f"out/{name}", {f"in/{name}": digest}, 16_000)


def test_a_plan_says_why_finished_work_no_longer_counts(tmp_path):
    stage, names = Add(3), "abcde"
    for name in names:
        part(tmp_path, name, [name])
    run_stage(stage, tmp_path, [add_task(stage, name) for name in "abcd"], LOCAL, quiet=True)
    (tmp_path / "out" / "a").unlink()
    digests = dict(zip(names, ("d", "d", "d", "other", "d"), strict=True))
    todo = plan(stage, tmp_path, [add_task(stage, name, digest) for name, digest in digests.items()])
    assert [task.output for task in todo.todo] == ["out/a", "out/d", "out/e"]
    assert todo.reasons == {"its output is missing": 1, "in changed": 1, "new": 1}
    changed = Add(4)
    todo = plan(changed, tmp_path, [add_task(changed, "b")])
    assert str(todo) == "add: 1 to do, 0.00 h, 0 up to date (1 number 3 -> 4)"
    assert plan(Add(3, "elsewhere"), tmp_path, [add_task(Add(3, "elsewhere"), "b")]).todo == []


def test_a_run_says_what_is_stale_and_redoes_it_alone(tmp_path, capsys):
    stage = Copy(str(tmp_path / "log"))
    tasks = copies(tmp_path, stage, 4)
    run_stage(stage, tmp_path, tasks, LOCAL, quiet=True)
    again = [*tasks[:3], make_task(stage, "out/3", {"in/3": "new"}, 16_000)]
    assert run_stage(stage, tmp_path, again, LOCAL)["done"] == 1
    assert "copy: 1 to do, 0.00 h, 3 up to date (1 in changed)" in capsys.readouterr().err
    assert [word for word, _ in stage.notes()][-1] == "out/3"


def test_another_attempt_that_was_killed_takes_no_marker_away(tmp_path, monkeypatch):
    from pipelines.execution import task as runner

    stage = Copy(str(tmp_path / "log"))
    (task,) = copies(tmp_path, stage, 1)
    states = iter([False])  # the second attempt began before the first had ended
    monkeypatch.setattr(runner, "is_done", lambda *_: next(states, True))
    stage.open().run(tmp_path, task)
    monkeypatch.setattr(runner, "is_done", lambda *_: False)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("corpus.files.publish", killed)
    with pytest.raises(KeyboardInterrupt):
        stage.open().run(tmp_path, task)
    assert read_marker(tmp_path / "out" / "0")["key"] == task.key


def rows(ids, seconds=30):
    return [Utterance(id, f"{id}.wav", seconds * 16_000, text=f"word {id}") for id in ids]


def contents(folder):
    return [path.read_bytes() for path in parts(folder)]


ids = st.lists(st.sampled_from([f"u{n}" for n in range(30)]), max_size=30)


@given(ids, ids, st.randoms(use_true_random=False))
@examples(deadline=None, max_examples=30)
def test_recordings_that_come_later_change_the_last_part_alone(tmp_path_factory, old, new, draw):
    folder = tmp_path_factory.mktemp("grown")
    old, new = list(dict.fromkeys(old)), [id for id in dict.fromkeys(new) if id not in old]
    write_manifest(rows(old), folder / "m", part_minutes=2, growing=True)
    before = contents(folder / "m")
    mixed = [*old, *new]
    for id in new:  # the new ones anywhere in the source, the old ones in their order
        mixed.remove(id)
        mixed.insert(draw.randint(0, len(mixed)), id)
    write_manifest(rows(mixed), folder / "m", part_minutes=2, growing=True)
    whole = max(len(before) - 1, 0)
    assert contents(folder / "m")[:whole] == before[:whole]
    write_manifest(rows(old), folder / "end", part_minutes=2, growing=True)
    write_manifest(rows([*old, *new]), folder / "end", part_minutes=2, growing=True)
    write_manifest(rows([*old, *new]), folder / "fresh", part_minutes=2)
    result = [(folder / name / "manifest.json").read_bytes() for name in ("end", "fresh")]
    assert (contents(folder / "end"), result[0]) == (contents(folder / "fresh"), result[1])


def test_a_recording_that_leaves_or_changes_touches_its_part_build_lock(tmp_path):
    old = [f"u{n}" for n in range(20)]
    write_manifest(rows(old), tmp_path / "m", part_minutes=2, growing=True)
    before = contents(tmp_path / "m")
    left = [
        dataclasses.replace(row, text="new") if row.id == "u9" else row for row in rows(old) if row.id != "u1"
    ]
    write_manifest(left, tmp_path / "m", part_minutes=2, growing=True)
    after = contents(tmp_path / "m")
    assert [one == other for one, other in zip(before, after, strict=True)] == [
        False,
        True,
        False,
        True,
        True,
    ]
    write_manifest(rows(["x", "y"]), tmp_path / "m", part_minutes=2, growing=True)
    result = json.loads((tmp_path / "m" / "manifest.json").read_text())
    assert (result["origin"], result["utterances"]) == ("x", 2)  # another corpus


def test_the_parts_of_a_manifest_are_those_of_its_summary_in_order(tmp_path):
    write_manifest(rows([f"u{n}" for n in range(7)]), tmp_path / "manifest", part_minutes=1, first_minutes=1)
    entries = json.loads((tmp_path / "manifest" / "manifest.json").read_text())["parts"]
    expected = [layout.Part(entry["name"], entry["samples"], entry["sha256"]) for entry in entries]
    listed = layout.parts(tmp_path)
    assert (list(listed), listed[-1], listed[1:]) == (expected, expected[-1], expected[1:])
    assert len(expected) > 2
    assert list(listed.names()) == layout.part_names(tmp_path) == [part.name for part in expected]


def test_a_manifest_of_another_version_is_refused_in_one_line(tmp_path):
    write_manifest(rows(["a"]), tmp_path / "manifest")
    summary = tmp_path / "manifest" / "manifest.json"
    assert len(layout.parts(tmp_path)) == 1
    summary.write_text(summary.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(ValueError, match="version 1, need 2; run `wordweave ingest` again") as raised:
        layout.parts(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_ten_recordings_more_redo_the_parts_they_are_in_and_the_last_shards(spoken_corpus, tmp_path):
    lines = spoken_corpus.read_text().splitlines()
    rows = [{**json.loads(line), "alignment": None} for line in lines]
    rows = [{**row, "audio": str(spoken_corpus.parent / row["audio"])} for row in rows]
    first, later = tmp_path / "first.jsonl", tmp_path / "later.jsonl"
    first.write_text("\n".join(map(json.dumps, rows[:14])))
    later.write_text("\n".join(map(json.dumps, [*rows[14:], *rows[:14]])))  # the new ones first
    engine, build = LOCAL, tmp_path / "build"

    def run(source):
        config = build_settings(source, units={"clusters": 50, "fit_frames": 5000}, shards={"samples": 4})
        run_step("ingest", build, config)
        fit_units(build, config, engine)
        done = [run_step(step, build, config, engine) for step in ("units", "align", "interleave")]
        run_step("report", build, config)
        return done

    run(first)
    before = hashes(build)
    old = sorted(name for name in before if name.startswith("manifest/part"))
    times = {name: (build / name).stat().st_mtime_ns for name in before}
    units, words, shards = run(later)
    after = hashes(build)
    new = sorted(name for name in after if name.startswith("manifest/part"))
    assert units["done"] == words["done"] == len(new) - len(old) + 1
    assert len(members(build, "interleaved")) == 24
    kept = [name for name in before if name.endswith(".tar") and after.get(name) == before[name]]
    assert (
        len(kept) >= shards["skipped"] >= 6
    )  # those with rows of the last part are made again, with the same bytes
    stands = [*old[:-1], "codebooks/units.safetensors", "tokenizer/tokenizer.json"]
    assert [(build / name).stat().st_mtime_ns for name in stands] == [times[name] for name in stands]


@pytest.mark.slow
def test_a_plan_over_many_parts_is_quick_and_small():
    few, many = measure(1_000), measure(41_000)
    each = (many["cpu_seconds"] - few["cpu_seconds"]) / 40_000
    grown = (many["peak_mb"] - few["peak_mb"]) / 40_000
    assert each * 1_000_000 < 60
    assert few["peak_mb"] + grown * 1_000_000 < 1000
    assert many["plan"] == "units: 41 to do, 6.83 h, 40959 up to date (41 dtype bfloat16 -> float32)"
