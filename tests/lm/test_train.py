"""The trainer on a toy corpus: what it learns, writes, resumes and refuses."""

import dataclasses
import itertools
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from click.testing import CliRunner

from corpus import files
from lm import model as model_module
from lm.export import export
from lm.lora import adapt
from lm.model import IGNORE, Model, preset
from lm.training import train as training
from lm.training.held_out import NGrams, mix_ngrams, pack_rows, prepare
from lm.training.train import STREAMS, TrainSettings, learning_rate, make_optimisers, read_batch, train
from shards.read import Packed, open_stream
from shards.samples import read_documents
from shards.vocabulary import Vocabulary
from tests.helpers.lm import toy_build, toy_vocabulary
from wordweave import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    return toy_build(folder, toy_vocabulary(folder))


@pytest.fixture(autouse=True)
def no_curve(request, monkeypatch):
    if "curve" not in request.node.name:
        monkeypatch.setattr(training, "plot_loss", lambda output: None)


@pytest.fixture
def toy(build, tmp_path):
    """Settings of a run over the toy corpus; takes changes."""

    def settings(output="run", **changes):
        defaults = {
            "shape": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
            "sequence_length": 64,
            "batch_tokens": 256,
            "tokens": 256 * 12,
            "log_every": 2,
            "evaluate_every": 6,
            "save_every": 4,
            "device": "cpu",
            "threads": 1,
            "build": str(build),
            "output": str(tmp_path / output),
        }
        return TrainSettings(**(defaults | changes))

    return settings


def log_of(settings):
    lines = map(json.loads, (Path(settings.output) / "log.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def weights_of(path):
    return Model.from_pretrained(path).weights()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_loss_falls_far_below_the_unigram_entropy_on_a_toy_corpus(toy):
    settings = toy(tokens=256 * 120, evaluate_every=60, save_every=1000, dropout=0.0)
    summary = train(settings)
    for stream in STREAMS:
        score = summary["best"]["streams"][stream]
        assert score["loss"] < score["unigram_entropy"] - 1, summary["sentences"]
        assert score["kinds"]["marker" if stream == "interleaved" else "text"]["loss"] < score["unigram"]
    assert "held-out interleaved: loss" in summary["sentences"][2]
    assert " < unigram entropy" in summary["sentences"][2]


def test_a_run_leaves_its_log_summary_curve_and_models(toy):
    settings, seen = toy(), []
    summary = train(settings, progress=seen.append)
    folder = Path(settings.output)
    assert sorted(path.name for path in folder.iterdir()) == [
        "best",
        "log.jsonl",
        "loss.png",
        "settings.json",
        "step-000008",
        "step-000012",
        "summary.json",
    ]
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert [line["step"] for line in seen if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in seen if "held_out" in line] == [6, 12]
    last = seen[-1]
    assert set(last["kinds"]) == {"text", "marker", "unit", "after_switch"}
    assert set(last["streams"]) == set(last["mixture"]) == set(STREAMS)
    assert math.isclose(sum(last["mixture"].values()), 1)
    assert summary["stopped"] == "tokens"
    assert Vocabulary.load(folder / "best").hash == Vocabulary.load(f"{settings.build}/shards").hash


@pytest.fixture
def adapters(build, tmp_path):
    """Changes of settings that adapt a small model."""
    torch.manual_seed(3)
    vocabulary = Vocabulary.load(build / "shards")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    model = Model(preset("nano", vocabulary.padded_size, **shape))
    model.save_pretrained(tmp_path / "start", vocabulary_hash=vocabulary.hash)
    return {
        "start_from": str(tmp_path / "start"),
        "lora_rank": 4,
        "lora_targets": ["q_proj", "down_proj"],
    }


@pytest.mark.parametrize("way", ["muon", "adamw", "adapters"])
def test_a_resumed_run_equals_the_unbroken_one_to_the_bit(way, toy, adapters):
    changes = adapters if way == "adapters" else {"optimiser": way}
    unbroken = toy("unbroken", **changes)
    train(unbroken)

    class Killed(Exception):
        pass

    def kill(line):
        if line["step"] == 10:
            raise Killed

    broken = toy("broken", **changes)
    with pytest.raises(Killed):
        train(broken, progress=kill)
    train(broken, resume=True)
    assert log_of(broken) == log_of(unbroken)
    for name in ("step-000008", "step-000012", "best"):
        assert same(weights_of(f"{broken.output}/{name}"), weights_of(f"{unbroken.output}/{name}"))


def test_adapters_change_their_matrices_by_low_rank_and_rows_freely(toy, adapters):
    settings = toy(**adapters)
    summary = train(settings)
    before, after = weights_of(settings.start_from), weights_of(summary["model"])
    ranks = {name: int(torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-4)) for name in before
             if before[name].ndim == 2}  # fmt: skip
    layer = "model.layers.0."
    low = {layer + "self_attn.q_proj.weight": 4, layer + "mlp.down_proj.weight": 4}
    free = {"model.embed_tokens.weight": 32, "lm_head.weight": 32}
    assert ranks == dict.fromkeys(ranks, 0) | low | free
    assert torch.equal(after[layer + "input_layernorm.weight"], before[layer + "input_layernorm.weight"])
    assert summary["final"]["loss"] < log_of(settings)[0]["loss"]


def test_a_merged_model_says_what_the_adapted_one_says(tmp_path):
    torch.manual_seed(0)
    model = Model(preset("nano", 128, hidden_size=32, num_hidden_layers=2, model_type="qwen2")).eval()
    tokens, plain = torch.arange(20)[None], Model.forward
    before = plain(model, tokens)
    adapt(model.model.layers, rank=3, alpha=6)
    assert torch.equal(plain(model, tokens), before)  # the change starts at nothing
    for name, parameter in model.named_parameters():
        if name.endswith("lora_up"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    merged = Model.from_pretrained(tmp_path).eval()
    assert not torch.allclose(merged(tokens), before, atol=1e-2)
    torch.testing.assert_close(merged(tokens), model(tokens), atol=1e-4, rtol=1e-4)


def test_adapters_are_those_of_peft():
    peft = pytest.importorskip("peft", reason="peft is the oracle of this test; nothing else needs it")
    torch.manual_seed(0)
    ours = Model(preset("nano", 128, hidden_size=32, num_hidden_layers=1)).eval()
    theirs = Model(ours.settings).eval()
    theirs.load_state_dict(ours.state_dict())
    adapt(ours.model.layers, rank=3, alpha=6, targets=["q_proj", "up_proj"])
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "up_proj"]), theirs
    )
    thin = {name: p for name, p in ours.named_parameters() if "lora" in name}
    for name, parameter in theirs.named_parameters():
        if "lora" in name:
            mine = name.replace("lora_A.default.weight", "lora_down").replace(
                "lora_B.default.weight", "lora_up"
            )
            torch.nn.init.normal_(thin[mine])
            parameter.data.copy_(thin[mine])
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(ours(tokens), theirs(tokens), atol=1e-5, rtol=1e-5)


def test_training_afresh_forgets_the_old_run(toy):
    settings = toy()
    train(settings)
    train(dataclasses.replace(settings, tokens=256 * 4))
    assert [path.name for path in sorted(Path(settings.output).glob("step-*"))] == ["step-000004"]
    assert [line["step"] for line in log_of(settings)] == [2, 4, 4]


def test_resuming_a_finished_run_changes_nothing(toy):
    settings = toy()
    before = train(settings)
    weights, log = weights_of(before["model"]), log_of(settings)
    after = train(settings, resume=True)
    assert same(weights_of(after["model"]), weights)
    assert log_of(settings) == log
    assert after["best"] == before["best"]


def test_small_batches_add_up_to_one_large_one(toy):
    whole, parts = toy("whole", dropout=0.0, micro_batch=4), toy("parts", dropout=0.0, micro_batch=1)
    train(whole)
    train(parts)
    for a, b in zip(log_of(whole), log_of(parts), strict=True):
        if "loss" in a:
            assert math.isclose(a["loss"], b["loss"], rel_tol=1e-3)
            # optimisers tolerate a wrong scale, the norm does not
            assert math.isclose(a["norm"], b["norm"], rel_tol=1e-2)


def test_no_target_crosses_documents_and_padding_has_none():
    row = Packed(
        tokens=np.array([1, 2, 3, 4, 5, 0, 0]),
        documents=np.array([0, 0, 0, 1, 1, -1, -1]),
        positions=np.array([0, 1, 2, 0, 1, 0, 0]),
        streams=np.zeros(7, np.int8),
    )

    class One:
        keys = (("text", "u1"), ("text", "u2"))

        def __next__(self):
            return row

    batch = read_batch(One(), 1, torch.device("cpu"))
    assert batch.keys == [[("text", "u1"), ("text", "u2")]]
    assert batch.targets.tolist() == [[2, 3, IGNORE, 5, IGNORE, IGNORE, IGNORE]]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(toy, monkeypatch):
    settings, steps, seen = toy(), [], []
    train(dataclasses.replace(settings, tokens=256 * 8))
    good = weights_of(f"{settings.output}/step-000008")
    honest = Model.forward

    def poisoned(self, *args, **kwargs):
        steps.append(1)
        return honest(self, *args, **kwargs) * (math.nan if len(steps) > 1 else 1)

    def watched(*args):
        seen.append(read_batch(*args))
        return seen[-1]

    monkeypatch.setattr(Model, "forward", poisoned)
    monkeypatch.setattr(training, "read_batch", watched)
    with pytest.raises(
        ValueError, match=r"step 9: the loss is nan; .* last good checkpoint is .*step-000008"
    ) as caught:
        train(settings, resume=True)
    assert "\n" not in str(caught.value)
    tokens = np.load(f"{settings.output}/bad-batch-000009-0.npy", allow_pickle=False)
    assert tokens.shape == (4, 64)
    rows = json.loads(Path(f"{settings.output}/bad-batch-000009-0.json").read_text())["sequences"]
    bad = seen[1]  # of the second step; those after it were prefetched
    assert np.array_equal(bad.tokens, tokens)
    documents = [1 + np.count_nonzero(np.diff(row)) for row in bad.documents.numpy()]
    assert [len(row) for row in rows] == documents
    assert {one["stream"] for row in rows for one in row} <= set(STREAMS)
    assert all(re.fullmatch(r"u\d{4}", one["id"]) for row in rows for one in row)
    assert same(weights_of(f"{settings.output}/step-000008"), good)


def test_a_full_disk_leaves_the_last_good_checkpoint(toy, monkeypatch):
    settings, save = toy(), model_module.save_file
    train(dataclasses.replace(settings, tokens=256 * 8))
    good = weights_of(f"{settings.output}/step-000008")

    def full(tensors, path, **options):
        if "training" in path.name:  # the model still fits, the moments do not
            raise OSError(28, "No space left on device")
        save(tensors, path, **options)

    monkeypatch.setattr("lm.model.save_file", full)
    with pytest.raises(
        ValueError, match=r"step-000012: cannot be written \(.*the disk of .*run.* is full.* is .*step-000008"
    ):
        train(settings, resume=True)
    assert same(weights_of(f"{settings.output}/step-000008"), good)
    assert not list(Path(settings.output).glob(".step*"))


def test_a_full_disk_under_the_best_model_is_one_clear_line(toy, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lm.model.save_file", full)
    with pytest.raises(
        ValueError, match=r"best: cannot be written \(.*the disk of .*best is full.* checkpoint is None"
    ):
        train(toy(evaluate_every=2))


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.5, 1.03])  # of the size of the weights: they do not fit, or the moments
def test_a_write_that_the_system_cuts_is_one_clear_line_at_the_front_door(part, toy):
    settings = toy(tokens=256 * 4)
    last = Path(train(settings)["model"]).parent / "step-000004"
    before, size = weights_of(last), (last / "model.safetensors").stat().st_size
    config = Path(settings.output).with_suffix(".toml")
    config.write_text(
        "sequence_length = 64\nbatch_tokens = 256\ntokens = 2048\nsave_every = 4\n"
        "shape = { hidden_size = 32, intermediate_size = 64, num_hidden_layers = 1 }\n"
    )

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(part * size), int(part * size)))

    command = [sys.executable, "-m", "wordweave", "train", settings.build, f"--config={config}"]
    command += [f"--output={settings.output}", "--resume"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=limit)
    messages = [line for line in done.stderr.splitlines() if line.startswith("wordweave: ")]
    assert (done.returncode, len(messages), done.stdout, "Traceback" in done.stderr) == (1, 1, "", False), (
        done.stderr
    )
    assert "cannot be written" in messages[0]
    assert messages[0].endswith(f"the last good checkpoint is {last}")
    assert same(weights_of(last), before)
    assert not list(Path(settings.output).glob(".step*"))


def test_a_stream_the_build_lacks_is_one_clear_line(toy, build, tmp_path):
    shutil.copytree(build, tmp_path / "less")
    index = json.loads((tmp_path / "less" / "shards" / "index.json").read_text())
    del index["streams"]["speech"]
    (tmp_path / "less" / "shards" / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="need speech/train, this build has interleaved/train") as caught:
        train(toy(build=str(tmp_path / "less")))
    assert "\n" not in str(caught.value)


def test_sequences_longer_than_any_document_are_filled_with_several(toy):
    settings = toy(sequence_length=1024, batch_tokens=1024, tokens=2048)
    summary = train(settings)
    texts = list(read_documents(settings.build, "text", "valid"))
    assert summary["best"]["streams"]["text"]["tokens"] == sum(len(text) - 1 for text in texts)
    row = next(open_stream(settings.build, settings.mixture, seed=0, sequence_length=1024))
    assert max(len(text) for text in texts) < 1024
    assert row.documents[-1] > 1


def test_tensorboard_gets_the_numbers_of_the_log(toy):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is optional"
    )
    settings = toy(tensorboard=True)
    train(settings)
    shown = reader.EventAccumulator(f"{settings.output}/tensorboard")
    shown.Reload()
    lines = [line for line in log_of(settings) if "loss" in line]
    for name, value in (
        ("loss", lambda line: line["loss"]),
        ("kinds/unit", lambda line: line["kinds"]["unit"]),
    ):
        assert [(point.step, point.value) for point in shown.Scalars(name)] == [
            (line["step"], pytest.approx(value(line))) for line in lines
        ]


def test_without_tensorboard_its_log_is_refused_in_one_line(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"train\.tensorboard: needs the package tensorboard"):
        train(toy(tensorboard=True))


def test_a_run_stops_when_the_held_out_loss_no_longer_falls(toy):
    summary = train(
        toy(tokens=256 * 400, learning_rate=0.0, matrix_learning_rate=0.0, evaluate_every=2, patience=3)
    )
    assert summary["stopped"] == "patience"
    assert summary["step"] == 8


def test_a_run_stops_at_its_wall_clock(toy):
    summary = train(toy(tokens=256 * 10_000, minutes=0.02))
    assert summary["stopped"] == "minutes"
    assert summary["tokens"] < 256 * 10_000


def test_training_goes_on_from_a_model_directory(toy):
    first = train(toy("first"))
    second = train(toy("second", start_from=first["model"], learning_rate=0.0, matrix_learning_rate=0.0))
    assert same(weights_of(second["model"]), weights_of(first["model"]))


def test_training_from_and_to_urls_is_training_on_a_disk(toy, build):
    local = toy(save_every=6, schedule="constant", warmup=0.0)
    remote = files.to_path("memory://trained")
    train(local)
    for path in sorted(build.rglob("*")):
        if path.is_file():
            files.write(remote / "build" / path.relative_to(build).as_posix(), path.read_bytes())
    config = Path(local.output).with_suffix(".toml")
    table = dataclasses.asdict(local)
    config.write_text(
        tomli_w.dumps({k: v for k, v in table.items() if k not in ("build", "output") and v is not None})
    )
    words = ["train", "memory://trained/build", f"--config={config}", "--output=memory://trained/run"]
    for more in (["--tokens=1536"], ["--resume"]):  # 6 of 12 steps, then the others
        result = CliRunner().invoke(cli, words + more)
        assert result.exit_code == 0, result.output
    assert not any(name.endswith(".tmp") for name in files.names_in(remote / "run"))
    lines = [json.loads(line) for line in files.read(remote / "run" / "log.jsonl").splitlines()]
    assert [line["step"] for line in lines] == [line["step"] for line in log_of(local)]
    assert [path.name for path in sorted((remote / "run").glob("step-*"))] == ["step-000006", "step-000012"]
    for name in ("step-000006", "step-000012", "best"):
        assert same(weights_of(remote / "run" / name), weights_of(f"{local.output}/{name}"))


def test_an_old_checkpoint_is_refused_with_the_way_out(toy):
    settings = toy()
    train(settings)
    (Path(settings.output) / "step-000012" / "optimisers.pt").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"earlier version \(optimisers.pt\).*with start_from = '.*step-000012'"
    ):
        train(settings, resume=True)


def test_a_gradient_that_is_not_finite_is_named(toy, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, most: torch.tensor(math.inf))
    with pytest.raises(ValueError, match=r"step 0: the gradient norm is inf, the loss \d\.\d{3}; tokens and"):
        train(toy())


def test_the_best_model_is_written_at_most_every_so_many_minutes(toy):
    often, rarely = toy("often", evaluate_every=2), toy("rarely", evaluate_every=2, best_minutes=60.0)
    summaries = [train(settings) for settings in (often, rarely)]
    assert [summary["best"]["step"] for summary in summaries] == [12, 12]  # always at the end
    assert json.loads((Path(rarely.output) / "step-000008" / "state.json").read_text())["best"]["step"] == 2
    assert json.loads((Path(often.output) / "step-000008" / "state.json").read_text())["best"]["step"] == 8
    assert same(weights_of(summaries[0]["model"]), weights_of(summaries[1]["model"]))


def test_lanes_are_a_setting_of_the_order(toy):
    first = train(toy("first", lanes=64))["final"]["loss"]
    second = train(toy("second", lanes=48))["final"]["loss"]
    assert first != second


def test_a_chunked_loss_is_the_whole_loss(toy, monkeypatch):
    whole, chunked = toy("whole"), toy("chunked", chunk=50)
    train(whole)
    train(chunked)
    for a, b in zip(log_of(whole), log_of(chunked), strict=True):
        if "loss" in a:
            assert math.isclose(a["loss"], b["loss"], rel_tol=1e-4)


def truncate(folder, name):
    path = Path(folder) / name
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize("name", ["training.safetensors", "model.safetensors", "state.json"])
def test_a_truncated_checkpoint_is_one_clear_line(name, toy):
    settings = toy()
    train(settings)
    truncate(f"{settings.output}/step-000012", name)
    with pytest.raises(ValueError, match=rf"step-000012/{name}: .*(damaged|not a usable)") as caught:
        train(settings, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lanes": 32}, "train.lanes: .* was trained with 64, got 32"),
        ({"sequence_length": 128}, "train.sequence_length: .* was trained with 64, got 128"),
        ({"seed": 1}, "train.seed: .* was trained with 0, got 1"),
        ({"shape": {}}, "train.shape: .* was trained with"),
    ],
)
def test_resuming_another_run_is_refused(changes, message, toy):
    train(toy())
    with pytest.raises(ValueError, match=message):
        train(toy(**changes), resume=True)


def test_a_build_with_another_vocabulary_is_refused(toy, tmp_path):
    settings = toy()
    first = train(settings)
    other = str(toy_build(tmp_path, toy_vocabulary(tmp_path, units=41)))
    with pytest.raises(ValueError, match="was trained with vocabulary"):
        train(toy(build=other), resume=True)
    with pytest.raises(ValueError, match="was made for vocabulary"):
        train(toy("other", build=other, start_from=first["model"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_tokens": 100}, "train.batch_tokens: need a multiple of sequence_length 64, got 100"),
        ({"optimiser": "sgd"}, "train.optimiser: need one of muon, adamw, got 'sgd'"),
        ({"schedule": "step"}, "train.schedule: .* got 'step'"),
        ({"mixture": {"song": 1.0}}, "train.mixture: need weights >= 0 of text, speech, interleaved"),
        ({"mixture": {"text": 0.0}}, "train.mixture: .* not all 0"),
        ({"lora_rank": 4}, r"train.lora_rank: .* a model to adapt \(start_from\)"),
        ({"lora_targets": ["lm_head"]}, r"train.lora_targets: need some of q_proj, .* got \['lm_head'\]"),
        ({"dropout": 1.0}, "train.dropout: need less than 1, got 1.0"),
        ({"learning_rate": math.nan}, "train.learning_rate: need a finite number >= 0, got nan"),
        ({"sharding": "shard"}, "train.sharding: muon needs whole matrices"),
        ({"compile": True}, "train.compile: needs a GPU"),
        ({"tokens": 0}, "train.tokens: need at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(changes, message, toy):
    with pytest.raises(ValueError, match=message):
        train(toy(**changes))


def test_every_parameter_has_one_optimiser(toy):
    model = Model(preset("nano", 128))
    for name in ("muon", "adamw"):
        optimisers = make_optimisers(model, toy(optimiser=name))
        assigned = [
            id(p) for optimiser, _ in optimisers for group in optimiser.param_groups for p in group["params"]
        ]
        assert sorted(assigned) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("schedule", ["constant", "cosine", "wsd"])
def test_schedules_warm_up_and_end_where_they_say(schedule, toy):
    settings = toy(schedule=schedule, warmup=0.1, last_rate=0.25)
    rates = [learning_rate(done, settings) for done in np.linspace(0, 1, 101)]
    assert rates[0] < 0.01
    assert math.isclose(rates[10], 1.0)
    assert math.isclose(rates[-1], 1.0 if schedule == "constant" else 0.25)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_packing_predicts_every_token_but_the_first_once():
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 50, n) for n in (1, 2, 9, 30, 4)]
    tokens, positions, numbers, targets = pack_rows(documents, 8)
    assert targets[targets != IGNORE].tolist() == [id for document in documents for id in document[1:]]
    assert ((numbers >= 0) == (targets != IGNORE)).all()
    inside = (numbers[:, 1:] == numbers[:, :-1]) & (numbers[:, 1:] >= 0)
    assert (tokens[:, 1:][inside] == targets[:, :-1][inside]).all()
    assert (positions[:, 1:][inside] == positions[:, :-1][inside] + 1).all()


def test_the_ngram_baselines_are_those_of_a_slow_count():
    training_documents = [np.array([0, 1, 2, 1, 2, 1]), np.array([0, 2, 2])]
    test = prepare("text", [np.array([0, 1, 2, 2])], training_documents, vocabulary_size=4, sequence_length=8)
    unigram = {
        1: 4 / 11,
        2: 5 / 11,
        0: 1 / 11,
        3: 1 / 11,
    }  # 7 predicted tokens: three 1, four 2; one more for each id
    assert np.allclose(test.ngram_baselines["unigram"], [-math.log(unigram[i]) for i in (1, 2, 2)])
    own = {1: 1 / 3, 2: 2 / 3}
    assert np.allclose(test.ngram_baselines["unigram_entropy"], [-math.log(own[i]) for i in (1, 2, 2)])
    # after 0 came 1 and 2; after 1 came 2 twice; after 2 came 1 twice and 2 once
    bigram = [(1 + 2 * unigram[1]) / 4, (2 + 1 * unigram[2]) / 3, (1 + 2 * unigram[2]) / 5]
    assert np.allclose(test.ngram_baselines["bigram"], [-math.log(p) for p in bigram])


def test_the_baseline_of_a_mixture_counts_every_stream_by_its_share():
    streams = {"a": [np.array([0, 1, 2]), np.array([0, 1, 3])], "b": [np.array([0, 2, 2, 2, 2])]}
    even = mix_ngrams(streams, {"a": 1.0, "b": 1.0}, 5)  # four predicted tokens each: as if put together
    together = NGrams([one for own in streams.values() for one in own], 5)
    every = np.arange(5)
    for before in every:
        pair = np.full(5, before), every
        assert np.allclose(even.bigram(*pair), together.bigram(*pair))
    thrice = mix_ngrams(
        streams, {"a": 3.0, "b": 1.0}, 5
    )  # of eight tokens six are a's: each counts 1.5, b's 0.5
    odd = NGrams([*streams["a"] * 3, *streams["b"]], 5)
    assert np.allclose(thrice.pair_counts, odd.pair_counts / 2)
    test = prepare("a", streams["a"], streams["a"], vocabulary_size=5, sequence_length=8, mixture=even)
    after_bos = test.tokens[test.targets != IGNORE].numpy() == 0
    assert (
        test.ngram_baselines["mixture_bigram"][after_bos] > test.ngram_baselines["bigram"][after_bos]
    ).all()


def test_bigram_probabilities_sum_to_one():
    rng = np.random.default_rng(0)
    grams = NGrams([rng.integers(0, 9, 40) for _ in range(3)], 12)
    for before in range(12):
        assert math.isclose(grams.bigram(np.full(12, before), np.arange(12)).sum(), 1)


def test_a_stream_without_held_out_documents_is_one_clear_line():
    with pytest.raises(ValueError, match="stream 'speech': need a held-out document"):
        prepare("speech", [], [], vocabulary_size=4, sequence_length=8)


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "lm").glob("*.toml")), ids=lambda path: path.stem)
def test_every_preset_file_can_be_read(path):
    assert TrainSettings("b", "o", **tomllib.loads(path.read_text())).build == "b"


def run_processes(count, settings, *options):
    """Train in `count` processes as a user would."""
    config = Path(settings.output).with_suffix(".toml")
    fixed = {key: value for key, value in dataclasses.asdict(settings).items() if value is not None}
    shape = ", ".join(f"{key} = {json.dumps(value)}" for key, value in fixed.pop("shape").items())
    mixture = ", ".join(f"{key} = {value}" for key, value in fixed.pop("mixture").items())
    lines = [f"{key} = {json.dumps(value)}" for key, value in fixed.items() if key not in ("build", "output")]
    lines += [f"shape = {{ {shape} }}", f"mixture = {{ {mixture} }}"]
    config.write_text("\n".join(lines))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += [
        *("-m", "wordweave", "train", settings.build),
        f"--config={config}",
        f"--output={settings.output}",
        *options,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1  # only the first process prints


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
COMMON = {"dropout": 0.0, "optimiser": "adamw", "schedule": "constant", "warmup": 0.0, "micro_batch": 1}


def losses_of(settings):
    return [(line["loss"], line["norm"]) for line in log_of(settings) if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("adapting", [False, True])
@pytest.mark.parametrize("sharding", ["replicate", "shard"])
def test_two_processes_train_as_one_and_their_checkpoint_resumes_in_one(sharding, adapting, toy, adapters):
    common = COMMON | {"sharding": sharding} | (adapters if adapting else {})
    if not adapting:
        common["shape"] = SHAPE | {"tie_word_embeddings": True}
    one, two = toy("one", **common), toy("two", **common)
    train(one)
    run_processes(2, dataclasses.replace(two, tokens=256 * 8))
    step = Path(two.output) / "step-000008"
    assert (step / "shards").exists() == (sharding == "shard")
    assert (step / "model.safetensors").exists() == (sharding == "replicate" or adapting)
    assert export(step, Path(two.output) / "export").joinpath("model.safetensors").exists()
    for name, weight in weights_of(f"{one.output}/step-000008").items():
        for folder in (step, Path(two.output) / "export"):
            torch.testing.assert_close(weights_of(folder)[name], weight, rtol=1e-2, atol=1e-3)
    train(two, resume=True)  # step 8 was saved by two processes
    assert np.allclose(losses_of(two), losses_of(one), rtol=1e-2)
    assert {line["step"] for line in log_of(two)} == {line["step"] for line in log_of(one)}


@pytest.mark.slow
def test_a_checkpoint_of_one_process_resumes_in_two_sharded_ones(toy):
    one, two = toy("one", **COMMON), toy("two", **COMMON, sharding="shard")
    train(one)
    train(dataclasses.replace(two, tokens=256 * 8))
    run_processes(2, two, "--resume")
    assert np.allclose(losses_of(two), losses_of(one), rtol=1e-2)
    assert (Path(two.output) / "step-000012" / "shards").exists()
