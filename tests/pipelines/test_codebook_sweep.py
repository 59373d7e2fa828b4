"""Codebooks of a build: imports, the sample, the sweep, the report, half precision."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import wordweave
from corpus.audio import decode
from corpus.toml import write_toml
from pipelines import settings as toml
from pipelines.build import dry_run, make_run, run_step
from pipelines.execution.runner import run_stage
from pipelines.layout import part_tasks, parts
from pipelines.reports.codebook_card import write_card
from pipelines.steps import codebook, codebook_sweep, units
from pipelines.steps.base import row_utterance
from pipelines.steps.codebook import gather_frames, subsample_rows
from pipelines.tokenize import check_units, tokenize_file, tokenize_files, verify_units
from tests.helpers.builds import LOCAL, fit_units
from units import verify
from units.encoders import load_encoder
from units.kmeans import Codebook, fit
from units.quality import describe
from units.quantizers import load_codebook

ROOT = Path(__file__).resolve().parents[2]
CENTRES = np.random.default_rng(0).normal(size=(30, 39)).astype(np.float32)


def build_settings(manifest: Path, **units) -> toml.Settings:
    config = toml.replace(toml.Settings(), "corpus", source=str(manifest), part_minutes=1.0)
    return toml.replace(config, "units", **{"encoder": "mfcc", "clusters": 30, "fit_frames": 800, **units})


@pytest.fixture(scope="module")
def manifest(spoken_corpus) -> Path:
    """Eight of the utterances."""
    path = spoken_corpus.with_name("eight.jsonl")
    path.write_text("".join(spoken_corpus.read_text().splitlines(keepends=True)[::3]))
    return path


@pytest.fixture(scope="module")
def ingested(manifest, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    run_step("ingest", folder, build_settings(manifest))
    return folder


@pytest.fixture
def fresh(ingested, manifest, tmp_path) -> tuple[Path, toml.Settings]:
    """A build with a manifest and nothing else, and its settings."""
    folder = tmp_path / "build"
    shutil.copytree(ingested, folder)
    return folder, build_settings(manifest)


def units_of(build: Path) -> list[list[int]]:
    return [
        units
        for path in sorted(build.glob("units/*.parquet"))
        for units in pq.read_table(path)["units"].to_pylist()
    ]


@pytest.fixture(scope="module")
def hubert(tmp_path_factory) -> str:
    """A small random HuBERT of 25 Hz."""
    from transformers import HubertConfig, HubertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    strides = {
        "conv_dim": [16] * 8,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2],
    }
    position = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hubert")
    HubertModel(HubertConfig(**sizes, **strides, **position)).save_pretrained(folder)
    return str(folder)


def test_the_sample_is_never_larger_than_asked_and_the_same_each_time(fresh):
    folder, config = fresh
    stage, encoder = codebook.frame_sampling(make_run(folder, config))
    tasks = part_tasks(folder, stage, "frames")
    run_stage(stage, folder, tasks, LOCAL, quiet=True)
    everything = gather_frames(folder, tasks, encoder.dimension, limit=10**9, seed=0)
    assert 700 < len(everything) < 900
    some, again, other = (gather_frames(folder, tasks, 39, limit=300, seed=seed) for seed in (0, 0, 1))
    assert some.shape == (300, 39)
    assert np.array_equal(some, again)
    assert not np.array_equal(some, other)
    assert np.array_equal(some, everything[subsample_rows(len(everything), 300, 0)])
    exact = len(everything)
    for limit in (exact - 1, exact, exact + 1):
        assert len(gather_frames(folder, tasks, 39, limit=limit, seed=0)) == min(limit, exact)


def test_a_fit_sees_at_most_the_frames_asked_for(fresh):
    folder, config = fresh
    for frames in (200, 600):
        path = fit_units(folder, toml.replace(config, "units", fit_frames=frames), LOCAL)
        assert 0.8 * frames < load_codebook(path).provenance["frames"] <= frames


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5))
def test_drawn_rows_are_in_order_and_different(count, limit, seed):
    rows = subsample_rows(count, limit, seed).tolist()
    assert rows == sorted(set(rows))
    assert len(rows) == min(count, limit)
    assert set(rows) <= set(range(count))


def test_every_row_is_drawn_equally_often():
    times = np.bincount(np.concatenate([subsample_rows(20, 5, seed) for seed in range(4000)]), minlength=20)
    assert np.abs(times - 1000).max() < 5 * np.sqrt(1000 * 0.75)


def test_foreign_codebooks_are_used_as_they_are_named(fresh, tmp_path):
    folder, config = fresh
    np.save(tmp_path / "centres.npy", CENTRES)
    torch.save({"cluster_centers": torch.from_numpy(CENTRES), "n_clusters": 30}, tmp_path / "fairseq.pt")
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(39, 8), torch.nn.LeakyReLU(), torch.nn.Linear(8, 30))
    torch.save({"model_cfg": {}, "model_weight": layers.state_dict()}, tmp_path / "quantizer.pt")
    encoder = load_encoder("mfcc")
    rows = pq.read_table(folder / "manifest" / "part-00000.parquet").to_pylist()
    for name in ("centres.npy", "fairseq.pt", "quantizer.pt"):
        used = toml.replace(config, "units", codebook=str(tmp_path / name))
        toml.write_settings(folder, used)
        assert fit_units(folder, used, LOCAL) == tmp_path / name
        assert run_step("units", folder, used, LOCAL)["done"] > 0
        book = load_codebook(tmp_path / name)
        stored = pq.read_table(folder / "units" / "part-00000.parquet")["units"].to_pylist()
        for row, sequence in zip(rows, stored, strict=True):
            (features,) = encoder.encode([decode(row_utterance(row))])
            assert book.assign(features).tolist() == sequence
        assert verify_units(folder, 5)["units_differ"] == 0
        assert tokenize_file(folder, Path(rows[0]["audio"])).startswith("[Hu")


def test_verify_fails_when_a_recording_was_replaced_by_one_of_the_same_length(fresh, monkeypatch):
    folder, config = fresh
    fit_units(folder, config, LOCAL)
    assert run_step("units", folder, config, LOCAL)["done"] > 0
    assert check_units(folder, 3)["units_differ"] == 0
    monkeypatch.setattr("pipelines.tokenize.decode", lambda utterance: decode(utterance)[::-1].copy())
    with pytest.raises(ValueError, match=r"units \(\d+\.\d+ %\) differ from a second encoding"):
        check_units(folder, 3)


def test_recordings_are_heard_alike_by_one_process_and_by_several(fresh, tmp_path):
    folder, config = fresh
    rows = pq.read_table(folder / "manifest" / "part-00000.parquet").to_pylist()
    recordings = [Path(row["audio"]) for row in rows[:3]] + [tmp_path / "gone.wav"]
    toml.write_settings(folder, config)
    fit_units(folder, config, LOCAL)
    alone, together = (tokenize_files(folder, recordings, workers) for workers in (1, 2))
    assert str(alone.pop(recordings[-1])) == str(together.pop(recordings[-1]))
    assert alone == together == {path: tokenize_file(folder, path) for path in recordings[:-1]}


def test_a_codebook_of_another_size_or_dimension_is_refused_by_name(fresh, tmp_path):
    folder, config = fresh
    np.save(tmp_path / "seven.npy", CENTRES[:7])
    np.save(tmp_path / "narrow.npy", CENTRES[:, :5])
    for name, line in (
        ("seven.npy", "has 7 units, units.clusters is 30"),
        ("narrow.npy", "5 dimensions"),
    ):
        named = toml.replace(config, "units", codebook=str(tmp_path / name))
        for step in ("fit units", "units"):
            with pytest.raises(ValueError, match=f"{name}: .*{line}"):
                run_step(step, folder, named)


def test_a_pickled_codebook_needs_trust_in_the_settings(fresh, tmp_path):
    joblib = pytest.importorskip("joblib")
    cluster = pytest.importorskip("sklearn.cluster")
    folder, config = fresh
    joblib.dump(cluster.KMeans(30, n_init=1, max_iter=1, random_state=0).fit(CENTRES), tmp_path / "km.bin")
    named = toml.replace(config, "units", codebook=str(tmp_path / "km.bin"))
    with pytest.raises(ValueError, match=r"km.bin: .*any code"):
        run_step("units", folder, named, LOCAL)
    assert run_step("units", folder, toml.replace(named, "units", trust_pickle=True), LOCAL)["done"] > 0
    assert max(map(max, units_of(folder))) < 30


class Exact:
    """An encoder that `choose_dtype` may ask for half precision."""

    provenance, device, minimum, hop = {"dtype": "float32"}, torch.device("cpu"), 1, 1

    def __init__(self, wrong=0):
        self.wrong = wrong  # frames in a thousand

    def encode(self, waveforms):
        if self.wrong is None:  # overflow
            return [np.full((len(wave), 1), np.inf) for wave in waveforms]
        return [np.where(np.arange(len(wave)) % 1000 < self.wrong, 1.0, 0.0)[:, None] for wave in waveforms]


@pytest.mark.parametrize(
    ("wrong", "dtype", "share"),
    [
        ({"float16": 0}, "float16", 0),
        ({"float16": 4}, "float16", 4),
        ({"float16": 5, "bfloat16": 4}, "bfloat16", 4),
        ({"float16": 5, "bfloat16": 900}, "float32", 900),
        ({"float16": None, "bfloat16": 1}, "bfloat16", 1),
    ],
)
def test_the_first_half_precision_below_half_a_percent_of_other_units_is_chosen(
    wrong, dtype, share, monkeypatch
):
    codebook, waves = Codebook(np.array([[0.0], [1.0]])), [np.zeros(1000), np.zeros(2000)]
    monkeypatch.setattr(verify, "fast_half_types", lambda device: list(wrong))
    result = verify.choose_dtype(Exact(), codebook, waves, lambda dtype: Exact(wrong[dtype]))
    assert (result["dtype"], result["share"], result["frames"]) == (dtype, share / 1000, 3000)
    assert all(name in result["why"] for name in wrong)
    assert verify.choose_dtype(Exact(), codebook, [], lambda dtype: Exact())["dtype"] == "float32"
    monkeypatch.setattr(verify, "fast_half_types", lambda device: [])
    result = verify.choose_dtype(Exact(), codebook, waves, lambda dtype: Exact())
    assert (result["dtype"], result["share"]) == ("float32", None)
    assert verify.choose_dtype(load_encoder("mfcc"), codebook, waves, load_encoder)["dtype"] == "float32"


@pytest.mark.parametrize(("limit", "dtype"), [(2.0, "bfloat16"), (0.0, "float32")])
def test_the_automatic_dtype_is_measured_once_written_down_and_used(fresh, hubert, limit, dtype, monkeypatch):
    folder, config = fresh
    monkeypatch.setattr(verify, "HALF_LIMIT", limit)
    monkeypatch.setattr(verify, "fast_half_types", lambda device: ["bfloat16"])
    config = toml.replace(config, "units", encoder=hubert, dtype="auto")
    fit_units(folder, config, LOCAL)
    assert (
        load_codebook(folder / "codebooks" / "units.safetensors").provenance["encoder"]["dtype"] == "float32"
    )
    with pytest.raises(ValueError, match="is not measured yet"):
        units.units_stage(make_run(folder, config))
    codebook.measure_dtype(make_run(folder, config))
    assert units.units_stage(make_run(folder, config)).dtype == dtype
    written = json.loads((folder / "codebooks" / "dtype.json").read_text())
    assert written["dtype"] == dtype
    assert 0 <= written["share"] < 0.5
    assert written["frames"] > 1000
    monkeypatch.setattr(verify, "choose_dtype", None)  # not asked again
    assert run_step("units", folder, config, LOCAL)["done"] > 0
    asked_for = units.units_stage(make_run(folder, toml.replace(config, "units", dtype=dtype)))
    assert asked_for == units.units_stage(make_run(folder, config))


def test_a_recording_that_no_encoder_can_use_is_rejected_and_the_others_stay(tmp_path):
    import soundfile

    rows, rng = [], np.random.default_rng(0)
    for i, loudness in enumerate((0.1, 1e30, 0.2)):
        wave = rng.normal(size=30_000) * loudness
        soundfile.write(tmp_path / f"{i}.wav", wave.astype(np.float32), 16_000, subtype="FLOAT")
        rows.append({"id": f"u{i}", "audio": f"{i}.wav", "text": "a"})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder, config = (
        tmp_path / "build",
        build_settings(tmp_path / "manifest.jsonl", clusters=5, fit_frames=60),
    )
    run_step("ingest", folder, config)
    fit_units(folder, config, LOCAL)
    run_step("units", folder, config, LOCAL)
    table = pq.read_table(folder / "units" / "part-00000.parquet").to_pylist()
    assert [row["reject"] for row in table] == [None, "units.failed", None]
    assert "need samples in [-1, 1]" in table[1]["detail"]
    assert [len(row["units"] or []) for row in table] == [46, 0, 46]


def run(*words) -> tuple[int, dict | str]:
    """Exit code and JSON of a command, or its line on stderr."""
    result = CliRunner().invoke(wordweave.cli, [*map(str, words), "--json"])
    return result.exit_code, json.loads(result.stdout) if result.exit_code == 0 else result.stderr.strip()


def test_an_imported_codebook_is_bound_to_its_encoder_and_outlives_a_fit(fresh, tmp_path):
    folder, config = fresh
    np.save(tmp_path / "theirs.npy", CENTRES[:7])
    code, answer = run("fit", "units", folder, "--import", tmp_path / "theirs.npy")
    path = folder / "codebooks" / "units.safetensors"
    assert (code, answer["codebook"], answer["clusters"]) == (0, str(path), 7)
    codebook = load_codebook(path)
    assert np.array_equal(codebook.centroids, CENTRES[:7])
    assert codebook.provenance["imported"] == "theirs.npy"
    assert codebook.provenance["encoder"] == load_encoder("mfcc").provenance
    before = path.read_bytes()
    config = toml.read_settings(folder)
    assert config.units.clusters == 7
    messages: list[str] = []
    assert fit_units(folder, config, LOCAL, say=messages.append) == path
    assert path.read_bytes() == before
    assert "was imported (theirs.npy) and is kept" in messages[0]
    assert run_step("units", folder, config, LOCAL)["done"] > 0
    assert set().union(*units_of(folder)) <= set(range(7))
    with pytest.raises(ValueError, match=r"units.safetensors: .*frame_rate 25.0, this one has 50.0"):
        run_step("units", folder, toml.replace(config, "units", encoder="mfcc-50hz"), LOCAL)


def test_a_codebook_of_another_tap_is_refused_in_one_line(fresh, tmp_path):
    folder, _ = fresh
    np.save(tmp_path / "theirs.npy", CENTRES[:7])
    code, line = run("fit", "units", folder, "--import", tmp_path / "theirs.npy", "--tap", "before-residual")
    assert code == 1
    assert "fitted on features taken before-residual, encoders give them after-residual" in line
    assert line.count("\n") == 0
    assert not (folder / "codebooks" / "units.safetensors").exists()
    encoder = load_encoder("mfcc")
    other = Codebook(CENTRES[:7], {"encoder": encoder.provenance, "tap": "before-residual"})
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="taken before-residual"):
        load_codebook(tmp_path / "other.safetensors").check(encoder)
    own = Codebook(CENTRES[:7], {"encoder": load_encoder("compact-1").provenance})
    assert own.features == {"tap": "after-residual", "layer": 5, "normalisation": {"normalize": 1e-07}}


def test_a_linear_quantizer_can_be_imported_and_encodes_as_before(fresh, tmp_path):
    folder, config = fresh
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(39, 8), torch.nn.LeakyReLU(), torch.nn.Linear(8, 30))
    torch.save({"model_cfg": {}, "model_weight": layers.state_dict()}, tmp_path / "theirs.pt")
    direct = toml.replace(config, "units", codebook=str(tmp_path / "theirs.pt"))
    run_step("units", folder, direct, LOCAL)
    before = units_of(folder)
    codebook.import_codebook(folder, config, tmp_path / "theirs.pt")
    run_step("units", folder, toml.read_settings(folder), LOCAL)
    assert units_of(folder) == before


def test_what_cannot_be_imported_is_refused_by_name_and_changes_nothing(fresh, tmp_path):
    joblib = pytest.importorskip("joblib")
    cluster = pytest.importorskip("sklearn.cluster")
    folder, config = fresh
    fit_units(folder, config, LOCAL)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    joblib.dump(cluster.KMeans(30, n_init=1, max_iter=1, random_state=0).fit(CENTRES), tmp_path / "km.bin")
    np.save(tmp_path / "narrow.npy", CENTRES[:, :5])
    (tmp_path / "half.safetensors").write_bytes(b"half")
    for name, line in (
        ("km.bin", "--trust-pickle"),
        ("narrow.npy", "5 dimensions"),
        ("half.safetensors", "whole"),
    ):
        code, answer = run("fit", "units", folder, "--import", tmp_path / name)
        assert (code, name in answer, line in answer, len(answer.splitlines())) == (1, True, True, 1), answer
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert run("fit", "units", folder, "--import", tmp_path / "km.bin", "--trust-pickle")[0] == 0
    assert load_codebook(folder / "codebooks" / "units.safetensors").clusters == 30


def test_trust_is_remembered_for_a_codebook_named_in_the_settings(fresh, tmp_path):
    joblib = pytest.importorskip("joblib")
    cluster = pytest.importorskip("sklearn.cluster")
    folder, config = fresh
    joblib.dump(cluster.KMeans(30, n_init=1, max_iter=1, random_state=0).fit(CENTRES), tmp_path / "km.bin")
    toml.write_settings(folder, toml.replace(config, "units", codebook=str(tmp_path / "km.bin")))
    assert run("fit", "units", folder)[0] == 1
    assert run("fit", "units", folder, "--trust-pickle")[0] == 0
    assert run("fit", "units", folder) == (0, {"codebook": str(tmp_path / "km.bin")})


def test_a_sweep_has_the_numbers_of_each_fit_and_keeps_no_codebook(fresh, hubert):
    folder, config = fresh
    config = toml.replace(config, "units", encoder=hubert)
    messages: list[str] = []
    rows = codebook_sweep.sweep(
        make_run(folder, config, say=messages.append), layers=[1, 3], clusters=[20, 5]
    )
    assert [(row["layer"], row["clusters"]) for row in rows] == [(1, 5), (1, 20), (3, 5), (3, 20)]
    assert json.loads((folder / "codebooks" / "sweep.json").read_text()) == rows
    assert [path.name for path in (folder / "codebooks").iterdir()] == ["sweep.json"]
    assert len(messages) == 5
    for less, more in (rows[:2], rows[2:]):
        assert more["inertia"] < less["inertia"]
        assert 0 < less["explained"] < more["explained"] < 1
    for row in rows:
        assert row["bitrate"] == pytest.approx(25 * np.log2(row["perplexity"]))
        assert row["bitrate_deduplicated"] > 0
        assert row["used"] == row["clusters"]  # of the frames it was fitted on
        assert row["frames"] <= config.units.fit_frames
    one = toml.replace(config, "units", layer=3, clusters=20)
    book = load_codebook(fit_units(folder, one, LOCAL))
    assert book.provenance["inertia"] == rows[3]["inertia"]


def test_a_sweep_is_asked_for_in_one_word_or_two(fresh):
    folder, _ = fresh
    two = run(
        "fit", "units", folder, "--engine", "local", "--sweep", "clusters=5,10", "--sweep", "clusters=20"
    )
    assert [row["clusters"] for row in two[1]["rows"]] == [5, 10, 20]
    for words in ("layers=", "k=5", "clusters=five", "clusters=1"):
        code, line = run("fit", "units", folder, "--sweep", words)
        assert (code, "--sweep" in line) == (2, True)
    assert run("fit", "units", folder, "--sweep", "clusters=5", "--trust-pickle")[0] == 2


def test_the_card_counts_every_unit_of_the_build(fresh):
    folder, config = fresh
    with pytest.raises(ValueError, match="no codebook here"):
        write_card(folder, toml.read_settings(folder))
    fit_units(folder, config, LOCAL)
    with pytest.raises(ValueError, match=r"part-00000.parquet: not finished; run `wordweave units"):
        write_card(folder, toml.read_settings(folder))
    run_step("units", folder, config, LOCAL)
    card = write_card(folder, toml.read_settings(folder))
    same = card["stability"]["same"]
    assert 0 < same["10 dB"] < same["20 dB"] < same["+6 dB gain"] <= 1
    assert "Stability in noise and with gain" in (folder / "codebooks" / "units.html").read_text()
    sequences = [np.array(units) for units in units_of(folder) if units is not None]
    assert card["units"] == describe(sequences, clusters=30, frame_rate=25.0) | {"utterances_without": 0}
    assert json.loads((folder / "codebooks" / "units.json").read_text()) == card
    assert "words are not aligned" in card["phones"]["left_out"]
    book = load_codebook(folder / "codebooks" / "units.safetensors")
    assert card["inertia"]["own"] == book.provenance["inertia"]
    assert 0.9 < card["inertia"]["ratio"] < 1.1
    page = (folder / "codebooks" / "units.html").read_text()
    assert f"{card['units']['used']} of 30" in page
    again = [(folder / "codebooks" / f"units.{kind}").read_bytes() for kind in ("json", "html")]
    write_card(folder, toml.read_settings(folder))
    assert [(folder / "codebooks" / f"units.{kind}").read_bytes() for kind in ("json", "html")] == again


def test_the_second_seed_is_the_reference(fresh):
    folder, config = fresh
    fit_units(folder, config, LOCAL)
    stage, _ = codebook.frame_sampling(make_run(folder, config))
    tasks = part_tasks(folder, stage, "frames")
    run_stage(stage, folder, tasks, LOCAL, quiet=True)
    features = gather_frames(folder, tasks, 39, limit=config.units.fit_frames, seed=0)
    marked = json.loads((folder / "codebooks" / "units.safetensors.done").read_text())
    assert marked["inertia"]["second seed"] == fit(features, clusters=30, seed=1).provenance["inertia"]


def add_phones(manifest: Path, folder: Path) -> Path:
    """The same corpus with a phones tier: the first letter of each word while it lasts."""
    from praatio import textgrid
    from praatio.data_classes.interval_tier import IntervalTier

    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows:
        grid = textgrid.openTextgrid(manifest.parent / row["alignment"], includeEmptyIntervals=False)
        words = grid.getTier("words")
        grid.addTier(IntervalTier("phones", [(*entry[:2], entry.label[0]) for entry in words.entries]))
        grid.save(folder / f"{row['id']}.TextGrid", format="long_textgrid", includeBlankSpaces=True)
        row |= {
            "audio": str(manifest.parent / row["audio"]),
            "alignment": str(folder / f"{row['id']}.TextGrid"),
        }
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "manifest.jsonl"


def test_the_card_tells_how_units_follow_given_phones(manifest, tmp_path, monkeypatch):
    folder, config = tmp_path / "build", build_settings(add_phones(manifest, tmp_path))
    config = toml.replace(config, "align", backend="given")
    run_step("ingest", folder, config)
    fit_units(folder, config, LOCAL)
    run_step("units", folder, config, LOCAL)
    run_step("align", folder, config, LOCAL)
    phones = write_card(folder, toml.read_settings(folder))["phones"]
    assert phones["utterances"] == 8
    assert phones["aligner"].startswith("given")
    assert phones["pnmi_shuffled"] < phones["pnmi"] < 1
    assert phones["phone_purity"] > 0.1
    assert "phone_purity" in (folder / "codebooks" / "units.html").read_text()
    assert write_card(folder, toml.read_settings(folder), phones=0)["phones"] == {"left_out": "not asked for"}
    assert write_card(folder, toml.read_settings(folder), phones=2)["phones"]["utterances"] == 2
    monkeypatch.setattr("aligners.pocketsphinx.Pocketsphinx.align", None)  # it would give none
    without = write_card(folder, toml.replace(config, "align", backend="pocketsphinx"))["phones"]
    assert without == {"left_out": "the aligner pocketsphinx gave no phones"}


@pytest.mark.slow
def test_the_memory_of_a_fit_does_not_grow_with_the_corpus(manifest, tmp_path):
    rows = [json.loads(line) | {"alignment": None} for line in manifest.read_text().splitlines()]
    peaks = []
    for copies in (4, 40):
        path = manifest.with_name(f"copies-{copies}.jsonl")
        named = ({**row, "id": f"{row['id']}-{i}"} for i in range(copies) for row in rows)
        path.write_text("".join(json.dumps(row) + "\n" for row in named))
        config = tmp_path / f"{copies}.toml"
        config.write_text(write_toml(build_settings(path, fit_frames=5000)))
        program = (
            "import sys; from pathlib import Path; from corpus.toml import read_toml;"
            "from tests.helpers.memory import peak_memory;"
            "from pipelines.build import run_step; from pipelines.settings import Settings;"
            "config, at = read_toml(Path(sys.argv[1]), Settings), Path(sys.argv[2]);"
            "run_step('ingest', at, config); run_step('fit units', at, config);"
            "print(peak_memory())"
        )
        words = [sys.executable, "-c", program, str(config), str(tmp_path / f"build-{copies}")]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
        provenance = load_codebook(
            tmp_path / f"build-{copies}" / "codebooks" / "units.safetensors"
        ).provenance
        assert 4500 < provenance["frames"] <= 5000
    assert peaks[1] < peaks[0] + 25, peaks  # MB; the larger corpus has 10 times the speech


def test_the_driver_of_a_gpu_build_needs_no_gpu(fresh, hubert):
    """Keys, hop and dimension are known without the device; only workers load models on it."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    folder, wanted = fresh
    fit_units(folder, wanted, LOCAL)
    on_cpu, on_gpu = (toml.replace(wanted, "units", device=device) for device in ("cpu", "cuda"))
    cpu, gpu = (units.units_tasks(make_run(folder, one)) for one in (on_cpu, on_gpu))
    assert gpu[0].uses_gpu
    assert cpu[1] == gpu[1]
    assert [str(plan) for plan in dry_run(folder, on_gpu)] == [str(plan) for plan in dry_run(folder, on_cpu)]
    assert tokenize_file(
        folder, Path(pq.read_table(folder / "manifest" / "part-00000.parquet")["audio"][0].as_py())
    )
    auto = {plan.stage: plan.waits for plan in dry_run(folder, toml.replace(on_gpu, "units", dtype="auto"))}
    assert auto["units"] == "the measurement of units.dtype"
    run_step("units", folder, on_cpu)
    write_card(folder, on_gpu, phones=0)


def test_of_a_large_corpus_only_some_parts_are_sampled_for_k_means(fresh):
    folder, wanted = fresh
    run = make_run(folder, toml.replace(wanted, "units", fit_hours=0.001))
    chosen = codebook.sampled_parts(run)
    assert 1 <= len(chosen) < len(parts(folder))
    stage, _ = codebook.frame_sampling(run)
    assert [task.output for task in codebook.frame_tasks(run, stage)] == [
        f"frames/{part.name}" for part in chosen
    ]
    samples = sum(part.samples for part in chosen)
    assert stage.utterance_share == pytest.approx(0.001 * 3600 * 16_000 / samples)
    everything = codebook.frame_tasks(
        make_run(folder, wanted), codebook.frame_sampling(make_run(folder, wanted))[0]
    )
    assert len(everything) == len(parts(folder))
