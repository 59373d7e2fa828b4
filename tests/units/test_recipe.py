"""A recipe of stages: one command trains them, fits the units, writes the card, and resumes after an interruption."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import wordweave
from commands.encoder import read_recipe
from tests.units.test_pretrain import SETTINGS, tones
from units import kmeans
from units.encoders import load_encoder
from units.pretraining import recipe as recipes
from units.pretraining.recipe import Recipe, follow, stage_folder
from units.pretraining.train import Recording, rate_at

ROOT = Path(__file__).resolve().parents[2]
FILES = ("config.json", "preprocessor_config.json", "model.safetensors", "codebook.safetensors")


@pytest.fixture(scope="module")
def recordings():
    return [Recording(f"r{i}", "last" if i == 5 else f"speaker{i % 2}", tones(i)) for i in range(6)]


def recipe_in(folder: Path) -> Recipe:
    """Eight steps, then four of eight, that start where those ended."""
    first = replace(SETTINGS, steps=8, consistency=0.0)
    return Recipe((first, replace(first, end=4, start=str(stage_folder(folder, 1)))), clusters=12)


@pytest.fixture(scope="module")
def whole(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    return folder, follow(recordings, recipe_in(folder), folder)


def test_stages_end_in_an_encoder_with_its_units_and_a_card(whole):
    folder, result = whole
    encoder, book = load_encoder(folder), kmeans.load(folder / "codebook.safetensors")
    book.check(encoder)
    assert (book.clusters, result["clusters"], result["steps"]) == (12, 12, 12)
    assert (folder / "model.safetensors").read_bytes() == (
        stage_folder(folder, 2) / "model.safetensors"
    ).read_bytes()
    written = json.loads((folder / "pretraining.json").read_text())
    assert [[line["step"] for line in stage["curve"]] for stage in written["stages"]] == [[4, 8], [4]]
    assert written["stages"][0]["data"]["sha256"] in (folder / "README.md").read_text()
    assert (folder / "README.md").read_text().count("\n| ") == 1 + 3


def test_a_stage_starts_where_the_one_before_ended(whole, recordings, tmp_path):
    folder, _ = whole
    alone = replace(recipe_in(folder).stages[1], start="")
    follow(recordings, Recipe((alone,), clusters=12), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_recipe_stopped_anywhere_goes_on_to_the_same_bytes(
    whole, recordings, tmp_path, killed_after, monkeypatch
):
    class Killed(Exception):
        pass

    lines, moved = [], tmp_path / "encoder"

    def kill(line):
        lines.append(line)
        if len(lines) == killed_after:
            raise Killed

    requested = recipe_in(moved)
    with pytest.raises(Killed):
        follow(recordings, requested, moved, progress=kill)
    follow(recordings, requested, moved, resume=True, progress=lambda line: lines.append(line))
    for name in FILES:
        assert (moved / name).read_bytes() == (whole[0] / name).read_bytes(), name
    steps = [(line["stage"], line["step"]) for line in lines]
    assert sorted(set(steps)) == [(1, 4), (1, 8), (2, 4)]


def test_what_is_finished_is_not_done_again_and_other_settings_are_refused(whole, recordings, monkeypatch):
    folder, result = whole
    monkeypatch.setattr(recipes, "fit_codebook", None)
    lines = []
    again = follow(recordings, recipe_in(folder), folder, resume=True, progress=lines.append)
    assert (again, lines) == (result, [])
    requested = recipe_in(folder)
    other = replace(requested, stages=tuple(replace(stage, seed=1) for stage in requested.stages))
    with pytest.raises(ValueError, match=r"stage-1/checkpoint.safetensors: was made with settings seed 0"):
        follow(recordings, other, folder, resume=True)


def test_too_little_speech_for_the_units_is_said_before_training(recordings, tmp_path):
    with pytest.raises(ValueError, match=r"recipe.clusters: need at most the number of frames, 240, got 501"):
        follow(recordings, replace(recipe_in(tmp_path), clusters=501), tmp_path)
    assert not stage_folder(tmp_path, 1).exists()


def test_a_lower_layer_that_is_not_there_is_said_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"recipe.lower: need layers from 1 to 1, got \[2\]"):
        replace(recipe_in(tmp_path), lower=(2,))


def recipe_of(name, tmp_path, **options):
    return read_recipe(ROOT / "config" / "encoder" / f"{name}.toml", options, tmp_path)


def test_the_recipe_of_compact_1_has_its_three_stages_with_one_seed_and_one_file_of_phones(tmp_path):
    recipe = recipe_of("compact-1", tmp_path, phones="phones.jsonl", seed=7)
    assert [(stage.steps, stage.last_step) for stage in recipe.stages] == [
        (2100, 2100),
        (1300, 750),
        (1000, 1000),
    ]
    assert {(stage.seed, stage.phones, stage.targets["phones"]) for stage in recipe.stages} == {
        (7, "phones.jsonl", 40)
    }
    assert [stage.start for stage in recipe.stages] == [
        "",
        str(tmp_path / "stage-1"),
        str(tmp_path / "stage-2"),
    ]
    assert (recipe.clusters, recipe.lower) == (501, (3,))


def test_the_bundled_recipe_begins_with_the_teacher_and_goes_on_from_its_own_first_stage(tmp_path):
    recipe = recipe_of("compact", tmp_path, teacher_path=str(tmp_path), seed=7)
    assert [stage.teacher.initialise for stage in recipe.stages] == [True, False]
    assert [stage.start for stage in recipe.stages] == ["", str(tmp_path / "stage-1")]
    assert {(stage.teacher.path, stage.teacher.layer, stage.seed) for stage in recipe.stages} == {
        (str(tmp_path), 3, 7)
    }
    assert len({*recipe.stages[0].validation, *recipe.stages[0].leave_out}) == 13


def test_a_recipe_for_a_hubert_with_a_teacher_can_be_read(tmp_path):
    (stage,) = recipe_of("hubert", tmp_path, teacher_path=str(tmp_path)).stages
    assert (stage.network.kind, stage.targets, stage.teacher.initialise) == ("hubert", {"teacher": 500}, True)


def settings_of(name):
    return json.loads((ROOT / "units" / "data" / name / "pretraining.json").read_text())["stages"]


@pytest.mark.parametrize(
    ("name", "options"), [("compact-1", {"phones": "p"}), ("compact", {"teacher_path": "units"})]
)
def test_a_recipe_has_the_settings_that_the_bundled_encoder_was_trained_with(
    name, options, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    for stage, made in zip(recipe_of(name, tmp_path, **options).stages, settings_of(name), strict=True):
        ours, theirs = json.loads(json.dumps(asdict(stage))), {"cosine": []} | made["settings"]
        assert stage.last_step == made["steps"]
        same = theirs.keys() - {"start", "phones", "keep_every", "steps", "end", "hold"}
        for key in sorted(same):
            if isinstance(theirs[key], dict):  # keys that were added since have values that change nothing
                known = theirs[key].keys() - {"path"}
                assert {k: ours[key][k] for k in known} == {k: theirs[key][k] for k in known}, key
            else:
                assert ours[key] == theirs[key], key
        used = replace(stage, steps=theirs["steps"], hold=theirs["hold"])
        steps = range(stage.last_step)
        assert [rate_at(step, stage) for step in steps] == [rate_at(step, used) for step in steps]


CONFIG = """
clusters = 12
lower = [1]
report_every = 4
checkpoint_every = 4
crop_seconds = [1.0]
batch_seconds = 4.0
targets = {{ logmel = 6 }}
network = {{ channels = [32, 16, 32], width = 32, layers = 2, heads = 2, wide = 64, position_kernel = 8 }}

[[stages]]
steps = 4

[[stages]]
{more}
"""


@pytest.fixture(scope="module")
def four(spoken_corpus):
    """A manifest of four utterances."""
    path = spoken_corpus.with_name("four-of-recipe.jsonl")
    path.write_text("".join(spoken_corpus.read_text().splitlines(keepends=True)[:4]))
    return path


def run(manifest, tmp_path, more, *words):
    config = tmp_path / "recipe.toml"
    config.write_text(CONFIG.format(more=more))
    words = [manifest, "--output", tmp_path / "out", "--config", config, *words]
    return CliRunner().invoke(wordweave.cli, ["fit", "encoder", *map(str, words)])


def test_one_command_makes_encoder_and_units_for_a_build(four, tmp_path):
    result = run(four, tmp_path, "steps = 4", "--seed", "3", "--resume", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["steps"], summary["clusters"]) == (8, 12)
    books = [kmeans.load(tmp_path / "out" / f"codebook{name}.safetensors") for name in ("", "-1")]
    assert [book.provenance["encoder"]["layer"] for book in books] == [2, 1]
    written = json.loads((tmp_path / "out" / "pretraining.json").read_text())
    assert {stage["settings"]["seed"] for stage in written["stages"]} == {3} == {written["codebook"]["seed"]}


def test_a_control_continues_without_clusters_of_its_own_features(four, tmp_path):
    assert run(four, tmp_path, "steps = 4").exit_code == 0
    iteration = CONFIG.split("[[stages]]")[0].format().replace("logmel = 6", "logmel = 6, own = 6")
    config = tmp_path / "own.toml"
    config.write_text(iteration.replace("clusters = 12\nlower = [1]", "steps = 4\nown_layer = 2"))
    words = ["fit", "encoder", four, "--config", config, "--start", tmp_path / "out"]
    made = []
    for name, more in (("own", []), ("control", ["--without-own-target"])):
        arguments = [*words, "--output", tmp_path / name, *more]
        result = CliRunner().invoke(wordweave.cli, [str(word) for word in arguments])
        assert result.exit_code == 0, result.output
        made.append(json.loads((tmp_path / name / "pretraining.json").read_text())["settings"])
    assert made[0].pop("targets") == {"logmel": 6, "own": 6}
    assert made[1].pop("targets") == {"logmel": 6}
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("more", "words", "line"),
    [
        ("stepps = 4", (), "recipe.toml: [stages 2]: unknown key 'stepps'; known: targets, "),
        ("steps = '4'", (), "recipe.toml: stages 2.steps: need an integer, got '4'"),
        ("steps = 4\nend = 5", (), "pretrain.end: need a step up to steps, 4, got 5"),
        ("network = 3", (), "recipe.toml: stages 2.network: need a table [stages 2.network], got 3"),
        ("steps = 4", ("--steps", "2"), "leave out --steps and --stop-after"),
        (
            "steps = 4",
            ("--without-own-target",),
            "--without-own-target: need another target than `own` in one stage",
        ),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line_of_bad_usage(four, tmp_path, more, words, line):
    result = run(four, tmp_path, more, *words)
    assert (result.exit_code, len(result.output.strip().splitlines())) == (2, 1), result.output
    assert line in result.output
