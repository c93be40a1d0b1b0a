"""What the tests of reports share: simulated seeds, small results of every kind, and times in picoseconds."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import strategies as st

import perfsim


@pytest.fixture(scope="session")
def results(seeds):
    """Give the results of the three seed scenarios by name."""
    return {name: perfsim.simulate(scenario) for name, scenario in seeds.items()}


@pytest.fixture(scope="session")
def improved_result(results):
    """Give the result of the improved seed scenario, TP8 x PP2."""
    return results["seed-improved"]


@st.composite
def results_of(draw, scenarios):
    """Simulate what is drawn, folded or in full."""
    return perfsim.simulate(draw(scenarios), detail=draw(st.sampled_from(["folded", "full"])))


@pytest.fixture(scope="session")
def small_results(small_scenarios):
    """Give a strategy of results of small scenarios of every kind."""
    return results_of(small_scenarios)


@pytest.fixture(scope="session")
def steady_results(steady_scenarios):
    """Give the same without generations and virtual stages, so that an operator has one price and one row a stage."""
    return results_of(steady_scenarios)


@pytest.fixture(scope="session")
def plain_results(plain_scenarios):
    """Give the same of bare stacks of dense layers."""
    return results_of(plain_scenarios)


@pytest.fixture(scope="session")
def in_ps():
    """Give a function that turns seconds of a table back into the whole picoseconds that they were."""

    def convert(column):
        return np.rint(np.asarray(column, dtype=np.float64) * 1e12).astype(np.int64)

    return convert


@pytest.fixture(scope="session")
def rows_of(in_ps):
    """Give a function that lists what a device did: (start_ps, end_ps, row of the timeline)."""

    def rows(result, device):
        frame = result.timeline[result.timeline["device"] == device]
        starts, ends = in_ps(frame["start_s"]).tolist(), in_ps(frame["end_s"]).tolist()
        frame = frame.assign(layer=frame["layer"].astype(object).where(frame["layer"].notna(), None))
        return list(zip(starts, ends, frame.itertuples(index=False), strict=True))

    return rows


@pytest.fixture(scope="session")
def sweep():
    """Give a function that walks from event to event: (length, what is under way) of every piece of time."""

    def pieces(intervals):
        events = sorted({time for start, end, _ in intervals for time in (start, end)})
        begun, running = sorted(intervals, key=lambda interval: interval[0]), []
        for now, after in pairwise(events):
            while begun and begun[0][0] <= now:
                running.append(begun.pop(0))
            running = [interval for interval in running if interval[1] > now]
            yield after - now, [what for _, _, what in running]

    return pieces
