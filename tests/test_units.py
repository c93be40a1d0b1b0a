"""Units: GB is 1e9 and GiB 2**30 everywhere, and quantities read well."""

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim import units

PACKAGE = Path(perfsim.__file__).parent
BINARY = {2**20, 2**30, 2**40}
PREFIX_BITS = {10, 20, 30, 40}


def binary_prefixes(source):
    """Give the lines of a source that spell out a binary prefix: powers of 1024, powers of 2, shifts, or the number."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value in BINARY:
            lines.append(node.lineno)
        elif (
            isinstance(node, ast.BinOp) and isinstance(node.left, ast.Constant) and isinstance(node.right, ast.Constant)
        ):
            left, right = node.left.value, node.right.value
            power = isinstance(node.op, ast.Pow) and (left == 1024 or (left == 2 and right in PREFIX_BITS))
            shift = isinstance(node.op, ast.LShift) and right in PREFIX_BITS
            product = isinstance(node.op, ast.Mult) and left == right == 1024
            if power or shift or product:
                lines.append(node.lineno)
    return lines


def test_gb_is_decimal_and_gib_is_binary():
    """The constants are what the names say."""
    assert units.GB == 1_000_000_000
    assert (units.KIB, units.MIB, units.GIB) == (1024, 1024**2, 1024**3)


@pytest.mark.parametrize("text", ["x * 2**30", "x / 1024**3", "1 << 30", "1024 * 1024", "y = 1073741824", "2**20"])
def test_the_scan_sees_every_spelling_of_a_binary_prefix(text):
    """The scan that the next test relies on works."""
    assert binary_prefixes(text)


def test_only_units_spells_out_binary_prefixes():
    """No other module multiplies by powers of 1024 on its own, so no GB turns into a GiB."""
    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "units.py"
        for line in binary_prefixes(path.read_text(encoding="utf-8"))
    }
    assert not found


def test_bytes_are_written_with_decimal_prefixes():
    """2**30 bytes are 1.074 GB."""
    assert units.format_bytes(2**30) == "1.074 GB"
    assert units.format_bytes(10**9) == "1 GB"


def test_the_reserve_of_a_cluster_is_two_gib(h100):
    """A reserve that is called 2 GiB is binary, a bandwidth in GB/s decimal."""
    assert h100.reserve_bytes == 2_147_483_648
    assert h100.tiers[0].bytes_per_s == 450_000_000_000
    assert h100.accelerator.memory_bytes == 81_559 * 1_048_576


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0, "B", "0 B"), (999, "B", "999 B"), (1000, "B", "1 kB"), (-2.5e6, "B", "-2.5 MB"), (3e18, "FLOP", "3 EFLOP"),
     (12, "", "12"), (1.5e12, "", "1.5 T")],
)  # fmt: skip
def test_counts_take_the_prefix_that_fits(value, unit, text):
    """Quantities have four digits and a decimal prefix."""
    assert units.format_count(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 s"), (90, "90 s"), (0.5, "500 ms"), (2e-5, "20 us"), (3e-9, "3 ns"), (4e-12, "4 ps"), (-0.25, "-250 ms")],
)
def test_durations_take_the_unit_that_reads_best(value, text):
    """Seconds down to picoseconds."""
    assert units.format_seconds(value) == text


@given(st.integers(0, 10**15))
def test_picoseconds_survive_the_way_through_seconds(number):
    """Whole picoseconds up to a quarter of an hour come back as they were."""
    assert units.picoseconds(units.seconds(number)) == number


def test_seconds_are_rounded_to_the_nearest_picosecond():
    """Rounding is to the nearest, so errors do not pile up in one direction."""
    rounded = units.picoseconds([1.4e-12, 1.6e-12, 1.0])
    assert rounded.tolist() == [1, 2, 10**12]
    assert rounded.dtype == np.int64


@pytest.mark.parametrize(
    ("dtype", "size"), [("fp32", 4), ("tf32", 4), ("bf16", 2), ("fp16", 2), ("fp8", 1), ("int8", 1)]
)
def test_every_dtype_has_its_bytes(dtype, size):
    """Bytes of one element."""
    assert units.DTYPE_BYTES[dtype] == size
