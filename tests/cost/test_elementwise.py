"""Kernels bound by memory: the speed of light by hand, arrays, monotony and bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim.cost import elementwise_seconds, price
from perfsim.ops.operators import Elementwise

BYTES = st.integers(0, 10**11)


def test_the_speed_of_light_is_the_bytes(h100):
    """Read and written ones, at 3.35 TB/s."""
    assert price(Elementwise("add", 2e9, 1e9, 0), h100).roofline_s == pytest.approx(3e9 / 3.35e12, rel=1e-12)


def test_arithmetic_runs_at_the_vector_rate(h100):
    """Where there is much of it."""
    cost = price(Elementwise("gelu", 1, 1, 66.9e12), h100)
    assert cost.roofline_s == pytest.approx(1.0, rel=1e-12)
    assert cost.bound == "compute"


def test_the_estimate_by_hand(documented):
    """A documented fraction of the bandwidth, and a fixed time."""
    wanted = 3e9 / (3.35e12 * documented.efficiency.memory) + documented.efficiency.kernel_s
    seconds = elementwise_seconds(documented, op="add", read_bytes=2e9, written_bytes=1e9)
    assert seconds == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "op", "source"),
    [
        ("dgx-h100", "add", "calibrated"),
        ("dgx-h100", "gelu", "extrapolated"),
        ("dgx-h100", "layernorm", "extrapolated"),
        ("dgx-h100", "gated", "calibrated"),
        ("dgx-h100", "rotary", "calibrated"),
        ("dgx-h100", "relu", "extrapolated"),
        ("dgx-h100", "topk", "extrapolated"),
        ("dgx-h100", "transpose", "roofline"),
        ("dgx-b200", "add", "extrapolated"),
        ("mi300x-8x", "add", "roofline"),
    ],
)
def test_the_provenance_is_that_of_the_class(name, op, source):
    """Kernels that were measured on the device, those like them, and those that nobody knows."""
    assert price(Elementwise(op, 1e6, 1e6), perfsim.load_cluster(name)).source == source


def test_arrays_broadcast_against_each_other(cluster):
    """Each point costs what it costs alone."""
    read, written = np.array([1e3, 1e6, 1e9]), np.array([[0.0], [1e8]])
    seconds = elementwise_seconds(cluster, op="layernorm", read_bytes=read, written_bytes=written)
    assert seconds.shape == (2, 3)
    for (i, j), value in np.ndenumerate(seconds):
        assert value == elementwise_seconds(cluster, op="layernorm", read_bytes=read[j], written_bytes=written[i, 0])


@given(read=BYTES, written=BYTES, more=BYTES)
def test_more_bytes_never_take_less_time(h100, read, written, more):
    """Read or written."""
    seconds = elementwise_seconds(
        h100, op="add", read_bytes=[read, read + more, read], written_bytes=[written, written, written + more]
    )
    assert seconds[0] <= seconds[1] == pytest.approx(seconds[2], rel=1e-12)


@pytest.mark.parametrize("value", [-1, float("nan"), "8"], ids=repr)
@pytest.mark.parametrize("field", ["read_bytes", "written_bytes"])
def test_bytes_that_are_none_are_refused(refused, h100, field, value):
    """Bytes are numbers of at least zero."""
    faults = refused(elementwise_seconds, h100, **{"op": "add", "read_bytes": 8, "written_bytes": 8, field: value})
    assert faults[0].field.endswith(field)
