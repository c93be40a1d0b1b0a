"""The errors: what they say, and the collector that reports all faults together."""

import copy
import pickle

import numpy as np
import pytest

from perfsim.errors import DeadlockError, Fault, Faults, InputError, PerfsimError, SimulationError, did_you_mean

NOT_INTEGERS = [True, np.True_, 3.0, np.float64(3), "3", None, [3], 0, -1]
NOT_NUMBERS = [True, float("nan"), float("inf"), 10**400, -(10**400), 0, -1.5, "1", None, 1j]


def test_a_fault_reads_as_field_value_allowed_and_way_out():
    """A fault names all four in one line."""
    assert str(Fault("plan.tensor", 3, "must divide 16", "use 4")) == "plan.tensor = 3: must divide 16; use 4"


def test_a_fault_without_way_out_has_no_loose_end():
    """The way out is optional."""
    assert str(Fault("plan.tensor", "x", "must be a number")) == "plan.tensor = 'x': must be a number"


def test_one_fault_prints_itself_and_many_are_listed():
    """An error counts its faults and gives each a line."""
    assert str(InputError.of("a", 1, "b")) == "a = 1: b"
    assert str(InputError([Fault("a", 1, "b"), Fault("c", 2, "d")])) == "2 faults:\n  a = 1: b\n  c = 2: d"


@pytest.mark.parametrize(
    ("kind", "parents"),
    [(InputError, (PerfsimError, ValueError)), (DeadlockError, (SimulationError, PerfsimError, RuntimeError))],
)
def test_every_error_has_the_one_root_and_a_builtin_parent(kind, parents):
    """Callers may catch perfsim's root or the builtin kind."""
    assert all(issubclass(kind, parent) for parent in parents)


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])  # noqa: S301
def test_an_input_error_survives_a_copy(copied):
    """Errors of worker processes reach the caller whole."""
    error = InputError([Fault("a", 1, "b", "c"), Fault("d", 2, "e")])
    assert copied(error).faults == error.faults
    assert str(copied(error)) == str(error)


def test_a_deadlock_survives_a_pickle():
    """A deadlock in a worker process reaches the caller whole."""
    error = DeadlockError(["task 1", "task 2"], total=3)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (again.blocked, str(again)) == (error.blocked, str(error))


@pytest.mark.parametrize(
    ("named", "total", "rest"),
    [
        (2, 2, None),
        (8, 8, None),
        (8, 20, 12),
        (12, 12, 4),
        (2, 20, 18),
        (2, 5, 3),
    ],
)
def test_a_deadlock_counts_the_tasks_that_it_does_not_name(named, total, rest):
    """The message names up to eight tasks and says how many more there are."""
    text = str(DeadlockError([f"t{i}" for i in range(named)], total))
    assert f"{total} tasks" in text
    assert "t0; t1" in text
    assert text.endswith(f"and {rest} more") if rest else "more" not in text


@pytest.mark.parametrize("value", [1, 8, np.int8(3), np.int64(3), np.uint32(3)])
def test_whole_numbers_of_python_and_numpy_are_integers(value):
    """Sizes may come out of arrays."""
    faults = Faults("plan")
    assert faults.integer("tensor", value)
    assert not faults.found


@pytest.mark.parametrize("value", NOT_INTEGERS, ids=repr)
def test_what_is_not_a_size_is_refused(value):
    """Booleans, fractions, texts, zero and negative numbers are no sizes."""
    faults = Faults("plan")
    assert not faults.integer("tensor", value)
    (fault,) = faults.found
    assert (fault.field, fault.value) == ("plan.tensor", value)
    assert "at least 1" in fault.allowed


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: repr(value)[:8])
def test_what_is_not_a_positive_number_is_refused(value):
    """Booleans, texts, not-a-number, infinity, zero and negative numbers are no rates."""
    faults = Faults()
    assert not faults.number("rate", value)
    assert faults.found[0].field == "rate"


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int16(1)], ids=repr)
def test_numbers_of_python_and_numpy_are_numbers(value):
    """Rates may come out of arrays."""
    assert Faults().number("rate", value, at_most=1.0)


def test_a_number_above_its_limit_is_refused_with_the_limit():
    """The limit stands in the message."""
    faults = Faults()
    assert not faults.number("share", 1.5, at_most=1.0)
    assert "at most 1" in faults.found[0].allowed


def test_a_choice_that_is_not_legal_lists_the_legal_ones_and_the_nearest():
    """A typo is answered with the spelling that was meant."""
    faults = Faults("plan")
    assert not faults.choice("schedule", "pipelind", ("pipelined", "sequential"))
    assert faults.found == [
        Fault("plan.schedule", "pipelind", "must be one of pipelined, sequential", "did you mean 'pipelined'?")
    ]


@pytest.mark.parametrize(
    ("check", "value"),
    [("flag", 1), ("flag", "true"), ("flag", None), ("text", ""), ("text", "  "), ("text", 5), ("choice", ["a"])],
)
def test_wrong_types_are_recorded_by_every_check(check, value):
    """No check takes a value of another type for its own."""
    faults = Faults()
    arguments = (("a", "b"),) if check == "choice" else ()
    assert not getattr(faults, check)("x", value, *arguments)
    assert [(fault.field, fault.value) for fault in faults.found] == [("x", value)]


def test_a_nested_collector_records_into_its_parent():
    """Faults of all parts come together, each under its own prefix."""
    parent = Faults("model")
    Faults.nested(parent, "plan").add("tensor", 0, "must be more")
    parent.take(InputError.of("workload.phase", "x", "must be known"))
    parent.add("name", "", "must be a text")
    assert [fault.field for fault in parent.found] == ["plan.tensor", "workload.phase", "model.name"]
    with pytest.raises(InputError, match="3 faults"):
        parent.raise_if_any()


def test_a_collector_adopts_the_faults_of_a_part_under_its_own_prefix():
    """A part does not know where it stands; a place that has a fault gets no second one."""
    faults = Faults("cluster").inside("tiers").inside("1")
    faults.add("name", None, "is missing")
    faults.inside("latency_s").add("source", "", "must be known")
    part = [Fault(f"tiers.{field}", 0, "must be more") for field in ("name", "bytes_per_s", "bytes_per_s", "latency_s")]
    faults.adopt(InputError(part))
    fields = ["name", "latency_s.source", "bytes_per_s", "bytes_per_s"]
    assert [fault.field for fault in faults.found] == [f"cluster.tiers.1.{field}" for field in fields]


def test_a_collector_without_faults_raises_nothing():
    """A good input passes."""
    faults = Faults()
    faults.raise_if_any()
    assert faults.found == []


def test_nothing_is_suggested_where_nothing_is_near():
    """A wild guess would only confuse."""
    assert did_you_mean("zzz", ["tensor", "pipeline"]) == ""
