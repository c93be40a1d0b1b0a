"""The largest load that meets a service level: that of trying all loads, as far as that is well defined."""

import dataclasses
import functools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.serving.costs import RooflineCosts
from perfsim.serving.policies import Engine
from perfsim.serving.results import serve_requests
from perfsim.serving.run import Service
from perfsim.serving.traffic import ClosedLoop, OpenLoop
from perfsim.study.max_load import largest_load
from perfsim.study.serving_figures import SERVED

SERVICE = Service.of(RooflineCosts(), Engine("vllm"))
CLOSED = ClosedLoop(concurrency=4, prompt_tokens=512, output_tokens=32, num_requests=60)
OPEN = OpenLoop(requests_per_s=4, prompt_tokens=512, output_tokens=32, num_requests=200)


@pytest.fixture(scope="module")
def scenario():
    """Give Llama-3.1-8B on one H100."""
    return perfsim.Scenario(
        perfsim.load_cluster("dgx-h100"), perfsim.load_model("llama-3.1-8b"), perfsim.Plan(), perfsim.Workload()
    )


def meets(service, traffic, objectives, share):
    """Say whether a load meets objectives, straight from its requests."""
    result = serve_requests(service, traffic.requests())
    requests = result.requests
    together = np.logical_and.reduce([requests[name] <= limit for name, limit in objectives.items()])
    return result.drains and together.mean() >= share


LIMITS = st.sampled_from([
    {"ttft_s": 0.03}, {"ttft_s": 0.1}, {"tpot_s": 0.0095}, {"tpot_s": 0.012}, {"ttft_s": 0.4, "tpot_s": 0.02},
    {"ttft_s": 0.1, "tpot_s": 0.012}, {"latency_s": 0.1},
])  # fmt: skip


@settings(max_examples=25)
@given(
    st.sampled_from(["vllm", "trtllm", "sglang", "static"]),
    st.integers(1, 20),
    st.integers(0, 5),
    LIMITS,
    st.sampled_from([0.5, 0.9, 1.0]),
)
def test_it_is_the_largest_of_all_where_more_load_is_never_better(policy, start, seed, objectives, share):
    """Held against all concurrencies; where some meet above one that misses, it is the last before one that misses."""
    service = Service(SERVICE.tables, (Engine(policy, max_sequences=12, token_budget=2048),))
    make = {"prompt_tokens": 512, "output_tokens": 16, "num_requests": 40, "seed": seed}
    truth = [meets(service, ClosedLoop(concurrency=n, **make), objectives, share) for n in range(1, 21)]
    search = functools.partial(
        largest_load, service, ClosedLoop(concurrency=start, **make), objectives, share=share, at_most=20
    )
    if not any(truth):
        with pytest.raises(perfsim.UnmetError):
            search()
        return
    if truth != sorted(truth, reverse=True) and not truth[start - 1]:
        return  # none of the loads below may meet, although one above does
    found = search()
    assert truth[found.load - 1]
    assert found.next_load is None or (found.next_load == found.load + 1 and not truth[found.load])
    assert found.is_bounded == (found.load < 20)
    if truth == sorted(truth, reverse=True):
        assert found.load == sum(truth)


@settings(max_examples=15)
@given(
    ttft_s=st.sampled_from([0.05, 0.2]),
    start=st.floats(0.01, 200),
    tolerance=st.sampled_from([0.3, 0.02]),
    variation=st.sampled_from([0.0, 1.0, 1.5]),
)
def test_a_rate_is_within_its_tolerance(ttft_s, start, tolerance, variation):
    """The load meets, and one at most so much above does not."""
    make = {"prompt_tokens": 512, "output_tokens": 32, "num_requests": 100, "variation": variation}
    found = largest_load(
        SERVICE, OpenLoop(requests_per_s=start, **make), {"ttft_s": ttft_s}, share=0.95, tolerance=tolerance
    )
    assert found.load < found.next_load <= found.load * (1 + tolerance) * (1 + 1e-12)
    assert meets(SERVICE, OpenLoop(requests_per_s=found.load, **make), {"ttft_s": ttft_s}, 0.95)
    assert not meets(SERVICE, OpenLoop(requests_per_s=found.next_load, **make), {"ttft_s": ttft_s}, 0.95)


def test_the_table_has_every_load_that_was_tried_once():
    """By rising load, with the figures of a sweep; its row of the load that was found is that of its result."""
    found = largest_load(SERVICE, CLOSED, {"tpot_s": 0.0095})
    assert list(found.table) == ["concurrency", *SERVED, "meets"]
    assert found.table["concurrency"].is_monotonic_increasing
    assert found.table["concurrency"].is_unique
    row = found.table.set_index("concurrency").loc[found.load]
    assert row["meets"]
    assert row["ttft_s"] == found.result.ttft_s
    assert row["goodput_share"] == found.result.goodput(tpot_s=0.0095).share >= 0.99
    assert found.table["tokens_per_s_per_gpu"].isna().all()  # nobody knows of how many GPUs these costs are
    assert found.result.sent.concurrency == found.load


def test_what_binds_is_the_objective_that_the_next_load_misses():
    """Of two, the one that fewer requests meet."""
    loose = largest_load(SERVICE, CLOSED, {"ttft_s": 10.0, "tpot_s": 0.0095})
    assert loose.binding == "tpot_s"
    assert largest_load(SERVICE, CLOSED, {"ttft_s": 0.05, "tpot_s": 1.0}).binding == "ttft_s"
    alone = largest_load(SERVICE, CLOSED, {"tpot_s": 0.0095})
    assert (alone.load, alone.next_load) == (loose.load, loose.next_load)


def test_an_open_load_that_does_not_drain_meets_nothing():
    """However long requests may take; the queue is what binds."""
    engine = Engine("vllm", max_sequences=8)
    found = largest_load(Service(SERVICE.tables, (engine,)), OPEN, {"latency_s": 1e5})
    assert found.binding == "drains"
    assert "queue" in str(found)
    assert found.result.drains
    assert not found.table.set_index("requests_per_s").loc[found.next_load, "drains"]


def test_no_limit_is_said_to_be_none():
    """A service level that everything meets, up to the load that was allowed, or as many clients as requests."""
    found = largest_load(SERVICE, CLOSED, {"tpot_s": 100.0}, at_most=37)
    assert (found.load, found.next_load, found.binding, found.is_bounded) == (37, None, "", False)
    assert "sets no limit" in str(found)
    assert largest_load(SERVICE, CLOSED, {"tpot_s": 100.0}).load == 60


@pytest.mark.parametrize("traffic", [CLOSED, OPEN, OpenLoop(requests_per_s=1e4, prompt_tokens=512, output_tokens=32)])
@pytest.mark.parametrize("objectives", [{"ttft_s": 1e-6}, {"ttft_s": 1.0, "latency_s": 0.01}])
def test_what_nothing_meets_is_one_error_with_all_that_was_tried(traffic, objectives):
    """It names the objectives, what came nearest, and the way out; and it can travel between processes."""
    with pytest.raises(perfsim.UnmetError) as caught:
        largest_load(SERVICE, traffic, objectives)
    error = caught.value
    (fault,) = error.faults
    for text in (*objectives, "the fastest takes", "table"):
        assert text in str(fault)
    assert len(error.table)
    assert not error.table["meets"].any()
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert str(again) == str(error)
    assert again.table.equals(error.table)


def test_what_too_few_meet_says_how_many():
    """Some prompts are short enough, but not half of them."""
    one = ClosedLoop(concurrency=1, prompt_tokens=512, output_tokens=32)
    limit = float(np.quantile(serve_requests(SERVICE, one.requests()).requests["ttft_s"], 0.2))
    with pytest.raises(perfsim.UnmetError, match=r"only .* of them do, ttft_s <= .* by") as caught:
        largest_load(SERVICE, one, {"ttft_s": limit})
    assert 0 < caught.value.table["goodput_share"].iloc[0] < 0.5


def test_it_serves_a_scenario_and_shows_itself(scenario):
    """As `serve` does; the picture has an open marker for each load that misses, and the objective as a line."""
    found = perfsim.max_load(scenario, CLOSED, perfsim.Engine("trtllm"), tpot_s=0.012, share=0.9)
    traffic = ClosedLoop(concurrency=found.load, prompt_tokens=512, output_tokens=32, num_requests=60)
    assert found.result.requests.equals(perfsim.serve(scenario, traffic, perfsim.Engine("trtllm")).requests)
    assert found.table["gpus"].eq(1).all()
    assert f"{found.load}" in repr(found)
    page = found._repr_html_()
    assert all(f">{load:,}<" in page for load in found.table["concurrency"])
    ax = found.plot()
    _, filled, hollow, limit = ax.lines
    assert len(filled.get_xdata()) == found.table["meets"].sum()
    assert len(hollow.get_xdata()) == (~found.table["meets"]).sum()
    assert limit.get_xdata()[0] == 0.012
    assert ax.get_xlabel() == "TPOT p99 (s)"
    assert found.plot("latency_s").get_xlabel() == "latency (s)"


def test_a_cold_start_is_told():
    """Where TTFT binds a closed loop whose clients begin together; not with a ramp, nor where TPOT binds."""
    start = ClosedLoop(concurrency=4, prompt_tokens=512, output_tokens=32, num_requests=400)
    limit = 2.5 * float(serve_requests(SERVICE, start.requests()).requests["ttft_s"].max())
    cold = largest_load(SERVICE, start, {"ttft_s": limit})
    assert (cold.binding, cold.is_of_cold_start) == ("ttft_s", True)
    assert "give the traffic ramp_s" in str(cold)
    assert "give the traffic ramp_s" in cold._repr_html_()
    warm = largest_load(SERVICE, dataclasses.replace(start, ramp_s=2.0), {"ttft_s": limit})
    assert "ramp_s" not in str(warm)
    steps = largest_load(SERVICE, start, {"tpot_s": 0.012})
    assert (steps.binding, steps.is_of_cold_start) == ("tpot_s", False)


def test_more_replicas_take_more(scenario):
    """A deployment counts."""
    engine = perfsim.Engine("vllm", times="none")
    one, four = (
        perfsim.max_load(scenario, CLOSED, engine, tpot_s=0.009, deployment=perfsim.Deployment(replicas=count))
        for count in (1, 4)
    )
    assert four.load > 2 * one.load
    assert four.table["gpus"].eq(4).all()


def test_bad_input_is_refused(refused, scenario, tmp_path):
    """With all faults together."""
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,8,8\n", encoding="utf-8")
    engine = perfsim.Engine()
    (fault,) = refused(perfsim.max_load, scenario, perfsim.Trace(path), engine, ttft_s=1)
    assert (fault.field, "traffic.speed" in fault.way_out) == ("max_load.traffic", True)
    (fault,) = refused(perfsim.max_load, scenario, CLOSED, engine)
    assert fault.field == "max_load.ttft_s, tpot_s, latency_s"
    faults = refused(
        perfsim.max_load, "70b", CLOSED, "vllm", ttft_s=0, tpot_s=float("nan"), share=1.5, tolerance=0, at_most=1.5,
        deployment=2,
    )  # fmt: skip
    names = ("scenario", "engine", "deployment", "ttft_s", "tpot_s", "share", "tolerance", "at_most")
    assert [fault.field for fault in faults] == [f"max_load.{name}" for name in names]
    assert [fault.field for fault in refused(largest_load(SERVICE, CLOSED, {"tpot_s": 1.0}).plot, "ttft")] == [
        "plot.latency"
    ]
    long = ClosedLoop(concurrency=2, prompt_tokens=200_000, output_tokens=8)
    faults = refused(perfsim.max_load, scenario, long, engine, ttft_s=1)
    assert any("context" in fault.allowed for fault in faults)
