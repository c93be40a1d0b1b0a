"""Traffic is drawn as it says, comes from its seed to the bit, and refuses what makes no sense."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.serving.requests import NO_PREFIX, Requests
from perfsim.serving.traffic import Bursts, ClosedLoop, OpenLoop, Trace

SIZES = {"prompt_tokens": 1000, "output_tokens": 200}


def columns(requests):
    """Give all columns of requests as lists."""
    return [getattr(requests, name).tolist() for name in ("arrival_s", "prompt_tokens", "output_tokens", "prefix_id")]


@pytest.mark.parametrize("make", [ClosedLoop, OpenLoop, Bursts])
def test_a_seed_gives_the_same_bits(make):
    """Another one gives others."""
    one, same, other = (make(**SIZES, num_requests=50, num_prefixes=3, prefix_tokens=9, seed=s) for s in (1, 1, 2))
    assert columns(one.requests()) == columns(same.requests())
    assert columns(one.requests())[1] != columns(other.requests())[1]


@given(nominal=st.integers(1, 3000), shortest=st.floats(0.01, 1.0), seed=st.integers(0, 2**32))
def test_lengths_are_between_their_bounds(nominal, shortest, seed):
    """Whole numbers from the shortest share of the nominal length to the nominal length."""
    traffic = Bursts(size=60, prompt_tokens=nominal, output_tokens=nominal, shortest=shortest, seed=seed)
    for column in (traffic.requests().prompt_tokens, traffic.requests().output_tokens):
        assert column.dtype == np.int64
        assert column.min() >= max(1, shortest * nominal - 1e-6)
        assert column.max() <= nominal


def test_lengths_are_uniform():
    """By default from 0.8 of the nominal length on, both ends among them."""
    prompt = Bursts(size=100_000, **SIZES).requests().prompt_tokens
    counts = np.bincount(prompt)[800:]
    assert len(counts) == 201
    assert counts.min() > 350
    assert counts.max() < 650


def test_a_closed_loop_sends_only_its_first_requests_by_itself():
    """Ten for each client, unless told otherwise; the first ones at once or over the ramp."""
    requests = ClosedLoop(**SIZES, concurrency=4).requests()
    assert (len(requests), requests.concurrency) == (40, 4)
    assert requests.arrival_ps.tolist() == [0] * 4 + [-1] * 36
    ramped = ClosedLoop(**SIZES, concurrency=4, num_requests=6, ramp_s=2).requests()
    assert ramped.arrival_s[:4].tolist() == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize("variation", [0.0, 0.5, 1.0, 3.0])
def test_an_open_loop_keeps_rate_and_variation(variation):
    """Of the times between arrivals."""
    traffic = OpenLoop(**SIZES, requests_per_s=8, num_requests=200_000, variation=variation)
    gaps = np.diff(traffic.requests().arrival_s)
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.03, abs=1e-9)


def test_prefixes_are_shared():
    """Among as many groups as asked for; none where there are no shared tokens."""
    requests = OpenLoop(**SIZES, prefix_tokens=100, num_prefixes=5).requests()
    assert set(requests.prefix_id.tolist()) == set(range(5))
    assert (requests.prefix_tokens == 100).all()
    assert (OpenLoop(**SIZES).requests().prefix_id == NO_PREFIX).all()


@pytest.mark.parametrize(
    ("make", "fields", "named"),
    [
        (ClosedLoop, {"concurrency": 0}, "concurrency"),
        (ClosedLoop, {"ramp_s": -1.0}, "ramp_s"),
        (ClosedLoop, {"prompt_tokens": 0}, "prompt_tokens"),
        (ClosedLoop, {"output_tokens": 2.5}, "output_tokens"),
        (ClosedLoop, {"num_requests": 0}, "num_requests"),
        (ClosedLoop, {"shortest": 0.0}, "shortest"),
        (ClosedLoop, {"shortest": 1.1}, "shortest"),
        (ClosedLoop, {"seed": -1}, "seed"),
        (ClosedLoop, {"prefix_tokens": 801}, "prefix_tokens"),
        (OpenLoop, {"requests_per_s": 0}, "requests_per_s"),
        (OpenLoop, {"requests_per_s": np.inf}, "requests_per_s"),
        (OpenLoop, {"variation": -0.5}, "variation"),
        (Bursts, {"size": 0}, "size"),
        (Bursts, {"interval_s": 0}, "interval_s"),
    ],
)
def test_bad_traffic_is_refused(refused, make, fields, named):
    """One fault, with its name."""
    assert [fault.field for fault in refused(make, **{**SIZES, **fields})] == [f"traffic.{named}"]


def test_bad_requests_are_refused(refused):
    """The first row that is wrong, and how many more; all columns together."""
    ones = np.ones(3, int)
    assert refused(Requests, np.zeros(0), ones[:0], ones[:0])[0].field == "requests.arrival_s"
    assert refused(Requests, np.zeros(2), ones, ones)[0].field == "requests"
    faults = refused(Requests, np.array([0.0, 2.0, 1.0]), np.array([1, 0, -1]), ones)
    assert [fault.field for fault in faults] == ["requests.arrival_s[2]", "requests.prompt_tokens[1]"]
    assert "(and 1 more)" in faults[1].allowed
    (late,) = refused(Requests, np.array([0.0, 1.0, 1e9]), ones, ones)
    assert late.field == "requests.arrival_s[2]"
    (nan,) = refused(Requests, np.array([0.0, np.nan, 1.0]), ones, ones)[:1]
    assert nan.field == "requests.arrival_s[1]"
    (shared,) = refused(Requests, np.zeros(3), ones, ones, ones, 2 * ones)
    assert shared.field == "requests.prefix_tokens[0]"
    (clients,) = refused(Requests, np.zeros(3), ones, ones, concurrency=0)
    assert clients.field == "requests.concurrency"


def test_bad_traces_are_refused(refused):
    """Before any file is read."""
    faults = refused(Trace, 3, speed=0)
    assert [fault.field for fault in faults] == ["traffic.path", "traffic.speed"]
