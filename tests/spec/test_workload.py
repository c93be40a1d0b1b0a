"""Workloads: what is asked, and what is refused."""

import dataclasses
import pickle

import numpy as np
import pytest

import perfsim
from perfsim import Workload


@pytest.mark.parametrize("field", ["batch_size", "sequence_length"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, None, np.float64(2)], ids=repr)
def test_sizes_that_are_none_are_refused(refused, field, value):
    """Sizes are whole numbers of at least 1."""
    (fault,) = refused(Workload, **{field: value})
    assert (fault.field, fault.value) == (f"workload.{field}", value)


def test_numpy_sizes_are_sizes():
    """A workload of numpy integers equals that of Python's."""
    given = Workload(batch_size=np.int64(4), sequence_length=np.int32(7))
    assert given == Workload(batch_size=4, sequence_length=7)
    assert hash(given) == hash(Workload(batch_size=4, sequence_length=7))


def test_all_faults_come_together(refused):
    """Five wrong fields are five faults of one error."""
    faults = refused(Workload, phase="prefil", batch_size=0, sequence_length="x", causal=1, dtype="bf17")
    fields = ["phase", "batch_size", "sequence_length", "causal", "dtype"]
    assert [fault.field for fault in faults] == [f"workload.{field}" for field in fields]
    assert faults[0].way_out == "did you mean 'prefill'?"
    assert faults[4].way_out == "did you mean 'bf16'?"


def test_decoding_without_a_cache_is_refused(refused):
    """Decoding reads what an earlier pass kept."""
    (fault,) = refused(Workload, phase="decode", keep_kv_cache=False)
    assert fault.field == "workload.keep_kv_cache"
    assert fault.way_out


@pytest.mark.parametrize(("phase", "query", "tokens"), [("prefill", 100, 800), ("decode", 1, 8)])
def test_decode_computes_one_token_a_sequence(phase, query, tokens):
    """Prefill computes all tokens."""
    workload = Workload(phase=phase, batch_size=8, sequence_length=100)
    assert (workload.query_tokens, workload.tokens) == (query, tokens)


def test_a_workload_is_frozen_and_pickles():
    """Values do not change in place and travel to worker processes."""
    workload = Workload(batch_size=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        workload.batch_size = 4
    assert pickle.loads(pickle.dumps(workload)) == workload  # noqa: S301


def test_unknown_fields_are_refused_by_name():
    """A typo never runs with a default."""
    with pytest.raises(TypeError, match="batchsize"):
        perfsim.Workload(batchsize=3)
