"""TOML to dataclasses: the same mistake gives the same message, whatever is configured."""

from dataclasses import dataclass, field

import pytest

from corpus.toml import fill, read_toml, write_toml
from lm.training.train import TrainSettings
from pipelines.operations.study import Study
from pipelines.settings import UnitsSettings
from units.pretraining.train import PretrainSettings


@dataclass(frozen=True)
class Layer:
    size: int
    rates: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Network:
    layers: tuple[Layer, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    limit: int | None = None


def test_a_record_of_tables_reads_back_as_it_was_written(tmp_path):
    network = Network((Layer(3), Layer(4, (0.5, 2.0))), {"a": 1.0})
    (tmp_path / "x.toml").write_text(write_toml(network))
    assert read_toml(tmp_path / "x.toml", Network) == network


def test_whole_numbers_become_floats_at_any_depth():
    network = fill(Network, {"layers": [{"size": 3, "rates": [1, 2]}], "weights": {"a": 2}, "limit": 7})
    assert network == Network((Layer(3, (1.0, 2.0)),), {"a": 2.0}, 7)
    assert type(network.layers[0].rates[0]) is type(network.weights["a"]) is float


@pytest.mark.parametrize(
    ("record", "given"),
    [
        (UnitsSettings, {}),
        (TrainSettings, {"build": "b", "output": "o"}),
        (PretrainSettings, {}),
        (Study, {}),
    ],
)
def test_the_same_unknown_key_gives_the_same_message_everywhere(record, given):
    with pytest.raises(ValueError, match=r"^\[x\]: unknown key 'clustres'; known: [a-z_]+, [a-z_]+, "):
        fill(record, {"clustres": 3}, "x", given)


@pytest.mark.parametrize("record", [UnitsSettings, PretrainSettings])
def test_the_same_wrong_type_gives_the_same_message_everywhere(record):
    with pytest.raises(ValueError, match=r"^x.seed: need an integer, got 'many'$"):
        fill(record, {"seed": "many"}, "x")


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({"layers": [{"size": 1}, {"size": "1"}]}, "layers 2.size: need an integer, got '1'"),
        ({"layers": [{}]}, r"\[layers 1\]: missing key 'size'"),
        ({"layers": 3}, "layers: need a list, got 3"),
        ({"layers": [3]}, r"layers 1: need a table \[layers 1\], got 3"),
        ({"layers": [{"size": 1, "rates": [1]}]}, r"layers 1.rates: need 2 values, got \[1\]"),
        ({"weights": {"a": "1"}}, "weights.a: need a number, got '1'"),
        ({"limit": True}, "limit: need an integer, got True"),
        ({"a": 1, "b": 2}, "^unknown keys 'a', 'b'; known: layers, weights, limit$"),
    ],
)
def test_a_mistake_is_named_with_its_place(table, line):
    with pytest.raises(ValueError, match=line):
        fill(Network, table)


def test_a_value_that_is_given_cannot_stand_in_the_table_too():
    with pytest.raises(ValueError, match=r"\[train\]: unknown key 'build'; known: preset, "):
        fill(TrainSettings, {"build": "other"}, "train", {"build": "b", "output": "o"})
