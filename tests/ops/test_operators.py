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


@pytest.mark.parametrize(
    ("op", "wire"),
    [
        ("all_reduce", (2 * 60, 2 * 10, 2 * 5)),
        ("all_gather", (60, 10, 5)),
        ("reduce_scatter", (60, 10, 5)),
        ("all_to_all", (15, 20, 40)),
    ],
)
def test_what_collectives_send_at_each_tier_by_hand(op, wire):
    """Rings pass shares on outwards; of an all-to-all's sixteen parts 3 go to the domain, 4 to the next, 8 beyond."""
    assert Collective(op, 80, (4, 2, 2)).wire_bytes == wire


@pytest.mark.parametrize("op", ["all_gather", "reduce_scatter", "all_to_all"])
@pytest.mark.parametrize("span", [(8,), (4, 2), (1, 8), (2, 3, 4)])
def test_a_device_sends_all_but_its_own_part_however_the_group_is_spread(op, span):
    """The tiers share what one tier would send."""
    work = Collective(op, 240, span)
    assert sum(work.wire_bytes) == pytest.approx(240 * (1 - 1 / work.group_size), rel=1e-12)


def test_four_bits_and_their_scale_are_half_a_byte_and_a_sixteenth():
    """Two elements in one byte, and eight bits more for sixteen."""
    assert MatMul(m=2, n=4, k=8, dtype="fp4").weight_bytes == 4 * 8 / 2 + 4 * 8 / 16


def test_a_transfer_reads_and_writes_its_payload():
    """One end reads it, the other writes it."""
    assert (Transfer(80, 0).read_bytes, Transfer(80, 0).written_bytes) == (80, 80)


@pytest.mark.parametrize(
    "work", [Elementwise("add", 8, 4, 2), Collective("all_reduce", 8, (2,)), Transfer(8, 0), Nothing()]
)
def test_only_matrix_work_counts_as_flop(work):
    """FLOP are what the matrix units do."""
    assert (work.flop, work.weight_bytes) == (0, 0)
