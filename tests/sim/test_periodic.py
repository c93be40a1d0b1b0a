"""Repetition solved in closed form equals the same rows unrolled and run one by one, to the picosecond and the byte."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perfsim.schedule.expand import expand, period_of
from perfsim.schedule.program import make_program
from perfsim.schedule.taskgraph import Period
from perfsim.sim.compiled import run_compiled
from perfsim.sim.periodic import Lifetimes, Points, solve_points


def solve(waits, durations, buffers, points):
    """Ask the solver: waits are lists of (row, lag), buffers (place, row, users, sizes), points (shape, rest, n)."""
    counts = np.cumsum([0, *map(len, waits)])
    flat = [pair for row in waits for pair in row]
    period = Period(len(waits), counts, *(np.array([pair[i] for pair in flat], np.int64) for i in range(2)))
    lifetimes = Lifetimes(
        place=np.array([place for place, _, _, _ in buffers], np.int64),
        allocated_by=np.array([row for _, row, _, _ in buffers], np.int64),
        offsets=np.cumsum([0, *(len(users) for _, _, users, _ in buffers)]),
        users=np.array([user for _, _, users, _ in buffers for user in users], np.int64),
        size_bytes=np.array([[sizes[s] for _, _, _, sizes in buffers] for s in range(len(durations))], np.int64),
    )
    columns = Points(*(np.array([point[i] for point in points], np.int64) for i in range(3)))
    makespan, first, peak = solve_points(period, np.array(durations, np.int64), lifetimes, columns)
    return [(int(m), int(f), p.tolist()) for m, f, p in zip(makespan, first, peak, strict=True)]


def unrolled(waits, durations, buffers, point):
    """Lay out every row of every period, follow the longest path, and count what lives at each instant."""
    shape, rest, repeats = point
    variants = [shape] * repeats + ([rest] if rest >= 0 else [])
    ends, starts = {}, {}
    for k, variant in enumerate(variants):
        for row, earlier in enumerate(waits):
            starts[k, row] = max((ends[k - lag, r] for r, lag in earlier if lag <= k), default=0)
            ends[k, row] = starts[k, row] + durations[variant][row]
    lives = [
        (place, starts[k, row], max(ends[k, user] for user in users), sizes[variant])
        for k, variant in enumerate(variants)
        for place, row, users, sizes in buffers
    ]
    first = max(end for (k, _), end in ends.items() if k == 0)
    return max(ends.values()), first, [_peak(lives, place) for place in range(_places(buffers))]


def _places(buffers):
    return 1 + max((place for place, _, _, _ in buffers), default=-1)


def _peak(lives, place):
    """Most bytes at once; a buffer is there from its start up to its end, without the end itself."""
    here = [(start, end, size) for where, start, end, size in lives if where == place]
    return max(sum(size for start, end, size in here if start <= now < end) for now, _, _ in here) if here else 0


@st.composite
def periods(draw, max_lag):
    """Draw rows that each follow their own counterpart in the period before, as tasks on a stream do.

    Durations are small, so that ties are common and different paths take turns in being the longest.
    """
    rows = draw(st.integers(1, 6))
    waits = []
    for row in range(rows):
        above = st.tuples(st.integers(0, row - 1), st.just(0)) if row else st.nothing()
        earlier = st.tuples(st.integers(0, rows - 1), st.integers(1, max_lag))
        waits.append([(row, 1), *draw(st.lists(above | earlier, max_size=4, unique=True))])
    duration = st.lists(st.integers(0, 12), min_size=rows, max_size=rows)
    anywhere = st.integers(0, rows - 1)
    buffer = st.tuples(st.integers(0, 1), anywhere, st.lists(anywhere, max_size=3), st.tuples(*[st.integers(0, 9)] * 2))
    buffers = [(place, row, [row, *users], sizes) for place, row, users, sizes in draw(st.lists(buffer, max_size=4))]
    return waits, [draw(duration), draw(duration)], buffers


@st.composite
def asked(draw):
    """Draw points in the order in which the solver wants them: by shape, by the shape of the rest, by repeats."""
    point = st.tuples(st.integers(0, 1), st.integers(-1, 1), st.integers(1, 30))
    return sorted((shape, rest if rest != shape else -1, n) for shape, rest, n in draw(st.lists(point, max_size=6)))


def assert_same(period, points):
    """Compare every point with the unrolled rows."""
    assert solve(*period, points) == [unrolled(*period, point) for point in points]


@settings(max_examples=200)
@given(period=periods(max_lag=1), points=asked())
def test_periods_that_wait_for_the_one_before_equal_the_unrolled_rows(period, points):
    """Makespan, end of the first period and memory peaks, with and without a ragged last period."""
    assert_same(period, points)


# Rows a, c, d, b: a waits for b one period ago and for d two periods ago. Periods grow by 5 and 6 in turn.
TAKING_TURNS = (
    [[(0, 1), (3, 1), (2, 2)], [(0, 0), (1, 1)], [(1, 0), (2, 1)], [(0, 0), (3, 1)]],
    [[1, 5, 5, 4], [2, 5, 5, 3]],
    [(0, 0, [0, 2], (7, 3))],
)


@settings(max_examples=200)
@given(period=periods(max_lag=3), points=asked())
@example(period=TAKING_TURNS, points=[(0, -1, n) for n in range(1, 13)])
def test_periods_that_wait_for_earlier_ones_equal_the_unrolled_rows(period, points):
    """The same with waits that reach back up to three periods."""
    assert_same(period, points)


def test_growth_that_takes_turns_is_followed():
    """Two circuits, one over one period and one over two, take turns in being the longest path, for ever."""
    points = [(0, -1, n) for n in range(1, 9)]
    makespans = [makespan for makespan, _, _ in solve(*TAKING_TURNS, points)]
    assert makespans == [11, 16, 22, 27, 33, 38, 44, 49]


@pytest.mark.parametrize("rest", [-1, 1])
@pytest.mark.parametrize("repeats", [1, 2, 3, 10, 10**6, 10**12])
def test_a_pipeline_repeats_at_the_pace_of_its_slowest_stage(repeats, rest):
    """Three stages on streams of their own, the first held back: fill once, then turns of the slowest."""
    waits = [[(0, 1), (1, 2)], [(0, 0), (1, 1)], [(1, 0), (2, 1)]]
    steady, ragged = [3, 7, 2], [2, 4, 5]
    ((makespan, first, _),) = solve(waits, [steady, ragged], [], [(0, rest, repeats)])
    assert first == 12
    # The ragged last microbatch comes to the second stage when the slowest has let go of the one before.
    assert makespan == (12 + 7 * (repeats - 1) if rest < 0 else 3 + 7 * repeats + 4 + 5)


@pytest.mark.parametrize("repeats", [400, 401])
@pytest.mark.parametrize("rest", [-1, 1])
def test_many_repeats_equal_the_unrolled_rows(repeats, rest):
    """Five rows held back over one and two periods, and buffers that outlive a period."""
    waits = [
        [(0, 1), (2, 2)],
        [(0, 0), (1, 1)],
        [(1, 0), (2, 1), (4, 2)],
        [(2, 0), (3, 1)],
        [(3, 0), (4, 1)],
    ]
    durations = [[5, 3, 4, 9, 2], [4, 1, 6, 3, 8]]
    buffers = [(0, 0, [0, 2], (3, 2)), (0, 1, [1, 3], (5, 1)), (1, 3, [3, 4], (4, 9)), (1, 2, [2, 4], (1, 1))]
    assert_same((waits, durations, buffers), [(0, rest, repeats)])


def test_chains_of_different_pace_never_repeat_as_a_whole():
    """Nothing ties them together, so no cycle is found; the times are exact all the same."""
    waits, durations = [[(0, 1)], [(1, 1)]], [[3, 5], [1, 1]]
    buffers = [(0, 0, [0, 1], (2, 1))]
    points = [(0, rest, repeats) for rest in (-1, 1) for repeats in (1, 7, 100)]
    assert_same((waits, durations, buffers), points)


def test_rows_without_duration_take_no_time_and_hold_no_memory():
    """All ends are 0, however often they repeat, and a buffer that lives from 0 to 0 is never there."""
    waits, buffers = [[(0, 1)], [(0, 0), (1, 1)]], [(0, 0, [0, 1], (8, 8))]
    assert solve(waits, [[0, 0]], buffers, [(0, -1, 1), (0, -1, 50)]) == [(0, 0, [0]), (0, 0, [0])]


def test_what_is_freed_makes_room_at_the_same_instant():
    """The first buffer goes at the instant at which the second comes: never both."""
    waits = [[(0, 1), (1, 1)], [(0, 0), (1, 1)]]
    handed_over = [(0, 0, [0], (6, 6)), (0, 1, [1], (4, 4))]
    assert solve(waits, [[2, 2]], handed_over, [(0, -1, 20)]) == [(80, 4, [6])]
    overlapping = [(0, 0, [0, 1], (6, 6)), (0, 1, [1], (4, 4))]
    assert solve(waits, [[2, 2]], overlapping, [(0, -1, 20)]) == [(80, 4, [10])]


def test_buffers_that_outlive_their_period_add_up():
    """A slow last row that waits keeps one more buffer with every period; two places do not mix."""
    waits = [[(0, 1)], [(0, 0), (1, 1)]]
    buffers = [(0, 0, [0, 1], (3, 3)), (1, 1, [1], (5, 5))]
    ((makespan, _, peaks),) = solve(waits, [[1, 4]], buffers, [(0, -1, 9)])
    assert makespan == 1 + 4 * 9
    # At 8 the ninth comes; the first row of the first two periods had ended with their second rows by then.
    assert peaks == [3 * (9 - 1), 5]


@pytest.mark.parametrize(("repeats", "rest", "peak"), [(3, -1, 9), (12, -1, 36), (10**6, -1, 36), (10**6, 1, 40)])
def test_a_deep_pipeline_holds_as_many_periods_as_it_has_rows(repeats, rest, peak):
    """Periods repeat from the second on, but only after twelve does a buffer go that the first row allocates."""
    waits = [[(row, 1), (row - 1, 0)] if row else [(0, 1)] for row in range(12)]
    buffers = [(0, 0, [0, 11], (3, 7))]
    ((makespan, first, peaks),) = solve(waits, [[5] * 12, [5] * 12], buffers, [(0, rest, repeats)])
    assert (makespan, first) == (60 + 5 * (repeats - (rest < 0)), 60)
    assert peaks == [peak]


def test_the_peak_may_lie_in_the_ragged_last_period():
    """Its buffers have sizes of their own."""
    waits, buffers = [[(0, 1)]], [(0, 0, [0], (1, 50))]
    assert solve(waits, [[2], [2]], buffers, [(0, 1, 10**6)]) == [(2 * 10**6 + 2, 2, [50])]


def test_nothing_to_remember_has_no_peak():
    """Without buffers there is no place."""
    assert solve([[(0, 1)]], [[5]], [], [(0, -1, 3)]) == [(15, 5, [])]


@settings(max_examples=60)
@given(period=periods(max_lag=3), points=asked())
def test_a_point_does_not_depend_on_its_neighbours(period, points):
    """Points of one shape share a run, which goes as far as the longest of them needs."""
    assert solve(*period, points) == [solve(*period, [point])[0] for point in points]


@settings(max_examples=25)
@given(data=st.data())
def test_the_period_of_a_plan_equals_its_task_graph(data, steady_scenarios):
    """The template's period, unrolled by the solver, against the expanded tasks on the compiled engine."""
    program = make_program(data.draw(steady_scenarios))
    template, count = program.template, data.draw(st.integers(1, 40))
    duration_ps = program.operator_ps[:, template.operator]
    variant = np.zeros(count, np.int64)
    ends = run_compiled(expand(template, duration_ps, variant)).reshape(count, -1)
    none = np.empty(0, np.int64)
    lifetimes = Lifetimes(none, none, np.zeros(1, np.int64), none, np.empty((len(duration_ps), 0), np.int64))
    points = Points(np.array([0]), np.array([-1]), np.array([count]))
    makespan, first, _ = solve_points(period_of(template), duration_ps, lifetimes, points)
    assert (makespan.tolist(), first.tolist()) == ([ends.max()], [ends[0].max()])
