"""Expert all-to-all: bytes and times by hand, bounds, monotony, and tables at fault."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.cost.expert_all_to_all import (
    ExpertAllToAllCoefficients,
    expert_all_to_all_bytes,
    expert_all_to_all_seconds,
)
from perfsim.spec.profiles import profile_folder
from perfsim.spec.tables import read_toml

BYTES = st.floats(0, 1e10)


def test_copies_by_hand():
    """Seven eighths of eight copies; or seven other ranks, each missed by a token's eight experts with (7/8)^8."""
    sizes = {"tokens": 10, "hidden": 100, "topk": 8, "group_size": 8, "element_bytes": 2}
    assert expert_all_to_all_bytes(**sizes, one_copy_a_rank=False) == pytest.approx(10 * 100 * 2 * 7, rel=1e-12)
    wanted = 10 * 100 * 2 * 7 * (1 - (7 / 8) ** 8)
    assert expert_all_to_all_bytes(**sizes, one_copy_a_rank=True) == pytest.approx(wanted, rel=1e-12)


def test_a_time_by_hand():
    """10 us, and 1 us for 100 experts, beside the bytes at half of the rate."""
    coefficients = ExpertAllToAllCoefficients(1e-5, 1e-8, 0.5)
    seconds = expert_all_to_all_seconds(coefficients, [0, 5e6], num_experts=100, bytes_per_s=100e9)
    assert seconds.tolist() == pytest.approx([1.1e-5, 1.1e-5 + 1e-4], rel=1e-12)


def test_few_multiprocessors_are_the_bottleneck():
    """3 and 4 s make 5."""
    coefficients = ExpertAllToAllCoefficients(1e-9, 1e-12, 1.0, sm_bytes_per_s=1e9)
    seconds = expert_all_to_all_seconds(coefficients, 12e9, num_experts=1, bytes_per_s=4e9, sms=3)
    assert seconds == pytest.approx(5.0, rel=1e-6)


@given(sent=BYTES, more=BYTES)
@pytest.mark.parametrize("kernel", ["deepep_low_latency", "deepep_high_throughput"])
@pytest.mark.parametrize("phase", ["dispatch", "combine"])
def test_shipped_kernels_grow_and_obey_light(kernel, phase, sent, more):
    """On an H100."""
    tables = read_toml(profile_folder() / "kernels" / "h100-nccl.toml")["expert_all_to_all"]
    coefficients = ExpertAllToAllCoefficients.from_table(tables[kernel][phase])
    moved = np.array([sent, sent + more])
    seconds = expert_all_to_all_seconds(coefficients, moved, num_experts=256, bytes_per_s=450e9, sms=24)
    assert (seconds >= moved / 450e9).all()
    assert seconds[0] <= seconds[1] * (1 + 1e-12)
    assert seconds[0] == pytest.approx(
        float(expert_all_to_all_seconds(coefficients, sent, num_experts=256, bytes_per_s=450e9, sms=24)), rel=1e-14
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [({"efficiency": 0}, "efficiency"), ({"sharpness": 0.9}, "sharpness"), ({"sm_bytes_per_s": -1.0}, "sm_bytes_per_s"),
     ({"expert": 1e-8}, "expert")],
    ids=str,
)  # fmt: skip
def test_tables_at_fault_are_refused(refused, change, field):
    """With the name of what is wrong."""
    table = {"fixed_s": 1e-5, "expert_s": 1e-8, "efficiency": 0.5, "fit": {}, **change}
    assert field in [fault.field for fault in refused(ExpertAllToAllCoefficients.from_table, table)]
