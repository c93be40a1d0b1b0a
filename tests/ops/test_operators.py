"""Work: what one execution of each kind amounts to, by hand."""

import numpy as np
import pytest

from perfsim.ops.operators import Attention, Collective, Elementwise, MatMul, Nothing, Transfer, attended_pairs


def test_a_matrix_multiplication_by_hand():
    """Two FLOP a multiplication and addition; each operand once."""
    work = MatMul(m=3, n=5, k=7, dtype="bf16")
    assert (work.flop, work.weight_bytes, work.read_bytes, work.written_bytes) == (210, 70, 42 + 70, 30)


def test_attention_by_hand():
    """Two products over the pairs; K and V of the KV heads in the cache's dtype."""
    work = Attention(2, 4, 6, 8, 2, 16, "bf16", "fp8", causal=False)
    assert work.flop == 2 * (2 * 2 * 8 * 16 * 4 * 6)
    assert work.read_bytes == 2 * 4 * 8 * 16 * 2 + 2 * (2 * 6 * 2 * 16 * 1)
    assert work.written_bytes == 2 * 4 * 8 * 16 * 2


@pytest.mark.parametrize(
    ("query", "context", "causal", "pairs"),
    [
        (10, 10, False, 100),
        (10, 10, True, 50),
        (1, 10, True, 10),
        (1, 1, True, 1),
        (4, 10, True, 32),
        (4, 10, False, 40),
    ],
)
def test_pairs_under_a_mask_that_aligns_at_the_end(query, context, causal, pairs):
    """The mask halves the square of the new tokens."""
    assert attended_pairs(query, context, causal=causal) == pairs


def test_pairs_of_arrays_are_arrays():
    """A sweep counts all its points at once."""
    pairs = attended_pairs(np.array([1, 4]), np.array([[10], [20]]), causal=True)
    assert pairs.tolist() == [[10, 32], [20, 72]]


@pytest.mark.parametrize(
    ("op", "read", "written"), [("all_reduce", 80, 80), ("all_gather", 10, 80), ("reduce_scatter", 80, 10)]
)
def test_collectives_count_what_one_device_puts_in_and_gets_out(op, read, written):
    """The payload is the full tensor."""
    work = Collective(op, 80, (4, 2))
    assert (work.group_size, work.read_bytes, work.written_bytes) == (8, read, written)


def test_a_transfer_reads_and_writes_its_payload():
    """One end reads it, the other writes it."""
    assert (Transfer(80, 0).read_bytes, Transfer(80, 0).written_bytes) == (80, 80)


@pytest.mark.parametrize(
    "work", [Elementwise("add", 8, 4, 2), Collective("all_reduce", 8, (2,)), Transfer(8, 0), Nothing()]
)
def test_only_matrix_work_counts_as_flop(work):
    """FLOP are what the matrix units do."""
    assert (work.flop, work.weight_bytes) == (0, 0)
