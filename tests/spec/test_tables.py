"""From tables to dataclasses: frozen values, nested tables, and faults that name their whole path once."""

import json
import pickle
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pytest

from perfsim.errors import Faults, InputError
from perfsim.spec.tables import FrozenDict, build, find_file, freeze


@dataclass(frozen=True)
class Leaf:
    """A part that calls itself by one word, as those of perfsim do."""

    size: int
    note: str = ""

    def __post_init__(self):
        faults = Faults("leaf")
        faults.integer("size", self.size)
        faults.instance("note", self.note, str)
        faults.raise_if_any()


@dataclass(frozen=True)
class Tree:
    """A part with parts."""

    name: str
    best: Leaf
    leaves: tuple[Leaf, ...] = ()

    def __post_init__(self):
        faults = Faults("tree")
        faults.text("name", self.name)
        faults.instance("best", self.best, Leaf)
        if not all(isinstance(leaf, Leaf) for leaf in self.leaves):
            faults.add("leaves", self.leaves, "must be leaves")
        faults.raise_if_any()


def faults_of(table, prefix="forest.0"):
    """Give the fields at fault; nothing is built where there are any."""
    faults = Faults(prefix)
    assert (build(Tree, table, faults) is None) == bool(faults.found)
    return [fault.field for fault in faults.found]


@pytest.mark.parametrize(
    ("value", "frozen"),
    [
        (np.int8(3), 3),
        (np.float32(0.5), 0.5),
        (np.True_, True),
        (np.array([3, 5]), (3, 5)),
        (np.array([[1], [2]]), ((1,), (2,))),
        (range(2), (0, 1)),
        ("text", "text"),
        (None, None),
    ],
    ids=repr,
)
def test_frozen_values_are_plain(value, frozen):
    """Scalars of NumPy become Python's, lists and arrays tuples."""
    assert freeze(value) == frozen
    assert type(freeze(value)) is type(frozen)


def test_frozen_mappings_hash_pickle_and_write_as_json():
    """However deep their values lie."""
    frozen = freeze(MappingProxyType({"a": {"b": [np.int64(1), np.float32(2)]}}))
    assert isinstance(frozen["a"], FrozenDict)
    assert hash(frozen) == hash(pickle.loads(pickle.dumps(frozen)))  # noqa: S301
    assert json.loads(json.dumps(frozen)) == {"a": {"b": [1, 2.0]}}


def test_tables_inside_a_table_are_built():
    """One, and a list of them."""
    table = {"name": "t", "best": {"size": 3}, "leaves": [{"size": 1}, {"size": 2}]}
    assert build(Tree, table, Faults()) == Tree("t", Leaf(3), [Leaf(1), Leaf(2)])


def test_what_is_built_already_passes():
    """A caller may build an inner part itself."""
    assert build(Tree, {"name": "t", "best": Leaf(3)}, Faults()) == Tree("t", Leaf(3))


def test_every_fault_is_named_once_with_its_whole_path():
    """Unknown, missing and wrong fields at every depth come together, and a broken part is no second fault."""
    table = {"name": "", "best": {"size": 0, "sise": 1}, "leaves": [{"size": 1}, {"note": 5}]}
    assert sorted(faults_of(table)) == [
        "forest.0.best.sise", "forest.0.best.size", "forest.0.leaves.1.note", "forest.0.leaves.1.size", "forest.0.name",
    ]  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "forest"])
@pytest.mark.parametrize("table", [5, None, "x", [1]], ids=repr)
def test_what_is_no_table_is_a_fault_of_its_place(prefix, table):
    """Without a loose dot behind the prefix."""
    assert faults_of(table, prefix) == [prefix]


def test_a_fault_recorded_earlier_hides_none_of_this_table():
    """Only what this table has said already is left out."""
    faults = Faults()
    faults.add("best.size.source", None, "is missing")
    assert build(Tree, {"name": "t", "best": {"size": 0}}, faults) is None
    assert [fault.field for fault in faults.found] == ["best.size.source", "best.size"]


def test_a_name_is_a_path_or_that_of_a_preset(tmp_path):
    """The suffix tells them apart."""
    (tmp_path / "one.toml").touch()
    assert find_file("cluster", "one", tmp_path, ".toml") == tmp_path / "one.toml"
    assert str(find_file("cluster", "elsewhere/two.toml", tmp_path, ".toml")) == "elsewhere/two.toml"
    with pytest.raises(InputError, match=r"cluster = 'on': must be one of one, or a path; did you mean 'one'"):
        find_file("cluster", "on", tmp_path, ".toml")


@dataclass(frozen=True)
class Pot:
    """Which may hold a leaf."""

    leaf: Leaf | None = None


def test_a_dataclass_that_may_be_missing_is_built_from_its_table():
    """With its faults in their place; without it the field is None."""
    assert build(Pot, {"leaf": {"size": 3}}, Faults()) == Pot(Leaf(3))
    assert build(Pot, {}, Faults()) == Pot()
    faults = Faults("pot")
    assert build(Pot, {"leaf": {"sise": 3}}, faults) is None
    assert {"pot.leaf.sise", "pot.leaf.size"} <= {fault.field for fault in faults.found}


def test_what_is_frozen_is_frozen_once():
    """Copies share it, with its hash; what only looks frozen is frozen at every depth first."""
    frozen = freeze({"a": [1, {"b": 2}]})
    assert freeze(frozen) is frozen
    assert freeze({"inside": frozen})["inside"] is frozen
    shallow = FrozenDict(a=[1, {"b": 2}])
    assert freeze(shallow) is not shallow
    assert hash(freeze(shallow)) == hash(frozen)
    assert pickle.loads(pickle.dumps(frozen)) == frozen  # noqa: S301
