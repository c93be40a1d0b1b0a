"""Memory over time on the page: the same instants and bytes as in the table, to the picosecond."""

import numpy as np
import pytest

import perfsim
from perfsim.study.page import memory


def unrolled(curve):
    """Work the instants out again: picoseconds and bytes."""
    time, size = curve["time"].tolist(), curve["bytes"].tolist()
    points = list(zip(time, size, strict=True))
    first, rest = curve["first"], curve["first"] + curve["cycle"]
    again = [(t + n * curve["growth"], b) for n in range(curve["times"]) for t, b in points[first:rest]]
    return [*points[:first], *again, *points[rest:]]


@pytest.mark.parametrize("changes", [{}, {"batch_size": 13, "microbatch_size": 4}, {"batch_size": 1}])
def test_the_curve_is_that_of_the_table(seed, changes):
    """From 0 on, where a device has nothing to do yet, with what is resident."""
    result = perfsim.simulate(seed.with_(**{"batch_size": 64, **changes}))
    for device in (0, result.run.num_devices - 1):
        frame = result.memory_over_time(device)
        points = unrolled(memory.over_time(result, device))
        assert points[0][0] == 0
        assert points[-len(frame) :] == [
            (round(time * 1e12), size) for time, size in zip(frame["time_s"], frame["total_bytes"], strict=True)
        ]
        for time, size in points[: -len(frame)]:
            assert (time, size) == (0, frame["total_bytes"].iloc[0] - frame["activation_bytes"].iloc[0])


def test_a_long_run_takes_little_room(improved):
    """Nearly a hundred thousand instants shrink to some hundreds."""
    result = perfsim.simulate(improved)
    curve = memory.over_time(result, 8)
    assert len(unrolled(curve)) > 50_000
    assert len(curve["time"]) < 2_000
    assert np.all(np.diff(curve["time"]) > 0)
    assert max(size for _, size in unrolled(curve)) == result.memory.loc[8, "peak_bytes"]


def test_curves_that_have_no_room_are_named(improved, monkeypatch):
    """The fullest GPUs come first, and the page says how many are left out."""
    result = perfsim.simulate(improved.with_(batch_size=8))
    monkeypatch.setattr(memory, "MOST_POINTS", 0)
    from bokeh.models import Range1d

    _, left_out = memory.memory_figure(result, "plan-0", Range1d(0, 1))
    assert left_out == "Memory over time is held for the 1 fullest of 2 groups of GPUs, for want of room."
