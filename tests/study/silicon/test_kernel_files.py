"""Coefficient files: tables are replaced whole, others stay, and what is written reads back."""

import tomllib

import numpy as np
import pytest

from perfsim.errors import InputError
from perfsim.study.silicon.kernel_files import merge_into


@pytest.fixture
def path(tmp_path):
    """Give the place of a file that is not there yet."""
    return tmp_path / "kernels" / "hopper-trtllm.toml"


def read(path):
    """Give what a file holds."""
    return tomllib.loads(path.read_text())


def test_a_table_is_added_and_others_stay(path):
    """Two operators write into one file, one after the other."""
    merge_into(path, {"matmul.bf16": {"launch_s": 1e-6}}, library="trtllm")
    merge_into(path, {"matmul.fp8": {"launch_s": 2e-6}, "all_reduce": {"launch_s": 3e-6}})
    assert read(path) == {
        "format": 1,
        "library": "trtllm",
        "all_reduce": {"launch_s": 3e-6},
        "matmul": {"bf16": {"launch_s": 1e-6}, "fp8": {"launch_s": 2e-6}},
    }


def test_a_table_is_replaced_whole(path):
    """What the old table had and the new one has not is gone."""
    merge_into(path, {"matmul.bf16": {"launch_s": 1e-6, "gone": 1}})
    merge_into(path, {"matmul.bf16": {"launch_s": 2e-6}})
    assert read(path)["matmul"] == {"bf16": {"launch_s": 2e-6}}


def test_the_order_of_writing_leaves_no_trace(path, tmp_path):
    """Tables are sorted, so that a file differs only where its numbers do."""
    other = tmp_path / "other.toml"
    for name in ("b.x", "a", "b.w"):
        merge_into(path, {name: {"launch_s": 1e-6}}, library="trtllm")
    for name in ("b.w", "b.x", "a"):
        merge_into(other, {name: {"launch_s": 1e-6}}, library="trtllm")
    assert path.read_text() == other.read_text()


def test_numbers_of_numpy_are_written_with_four_digits(path):
    """Whole numbers stay whole, however long they are."""
    merge_into(path, {"a": {"x": np.float32(1 / 3), "rows": np.int64(123456), "list": np.array([1.23456, 2.0])}})
    assert read(path)["a"] == {"x": 0.3333, "rows": 123456, "list": [1.235, 2.0]}


def test_a_name_through_a_number_is_refused(path):
    """The error names the table and the file, which stays as it was."""
    merge_into(path, {"a": {"x": 1}})
    before = path.read_text()
    with pytest.raises(InputError, match=r"a\.x\.y.*hopper-trtllm\.toml"):
        merge_into(path, {"a.x.y": {"z": 1}})
    assert path.read_text() == before
