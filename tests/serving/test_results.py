"""What a result says: means as benchmarks define them, percentiles, goodput, tables, words and pictures."""

import dataclasses

import numpy as np
import pytest

from perfsim.errors import InputError
from perfsim.serving.deployment import Deployment
from perfsim.serving.engine_times import EngineTimes
from perfsim.serving.policies import Engine
from perfsim.serving.requests import Requests
from perfsim.serving.results import OverloadError, serve_requests
from perfsim.serving.run import Service
from perfsim.serving.traffic import Bursts, ClosedLoop, OpenLoop


@pytest.fixture(scope="module")
def result(costs):
    """Give a closed loop of eight clients on two replicas, whose caches are small."""
    service = Service.of(costs, Engine("vllm", kv_blocks=400), Deployment(replicas=2))
    return serve_requests(service, ClosedLoop(concurrency=8, prompt_tokens=1000, output_tokens=100).requests())


def test_means_are_over_requests(result):
    """TTFT from sending; TPOT of each request over its further tokens; tokens over the makespan."""
    table = result.requests
    ttft = table["first_token_s"] - table["sent_s"]
    tpot = (table["finish_s"] - table["sent_s"] - ttft) / (table["output_tokens"] - 1)
    assert result.ttft_s == pytest.approx(ttft.mean())
    assert result.tpot_s == pytest.approx(tpot.mean())
    assert result.latency_s == pytest.approx(table["latency_s"].mean())
    span = table["finish_s"].max() - table["sent_s"].min()
    assert result.makespan_s == pytest.approx(span)
    assert result.tokens_per_s == pytest.approx(table["output_tokens"].sum() / span)
    assert result.requests_per_s == pytest.approx(80 / span)


def test_requests_of_one_token_have_no_tpot(costs):
    """They do not count as zero in its mean, and keep any objective for it."""
    requests = Requests(np.zeros(2), np.array([10, 10]), np.array([1, 5]))
    result = serve_requests(Service.of(costs, Engine()), requests)
    assert result.requests["tpot_s"].isna().tolist() == [True, False]
    assert result.tpot_s == result.requests["tpot_s"][1]
    assert result.goodput(tpot_s=1e-9).share == 0.5


def test_percentiles(result):
    """Of the requests that have ended."""
    found = result.percentiles([0, 50, 100])
    assert found.loc[100, "ttft_s"] == result.requests["ttft_s"].max()
    assert found.loc[50, "latency_s"] == pytest.approx(result.requests["latency_s"].median())
    assert found.index.name == "percent"


def test_steps_add_up(result):
    """Their tokens, their times, and the cache against its limit."""
    steps, replicas = result.steps, result.replicas
    assert steps["decodes"].sum() == (result.sent.output_tokens - 1).sum()
    assert steps["prompt_tokens"].sum() == result.sent.prompt_tokens.sum()
    lengths = (steps["end_s"] - steps["start_s"]).groupby(steps["replica"]).sum()
    np.testing.assert_allclose(lengths, replicas["busy_s"])
    assert steps.groupby("replica").size().tolist() == replicas["steps"].tolist()
    assert steps.groupby("replica")["kv_blocks"].max().tolist() == replicas["most_kv_blocks"].tolist()
    assert steps["kv_share"].max() == pytest.approx(replicas["most_kv_share"].max())
    assert (replicas["utilization"] <= 1).all()
    assert (replicas["prompt_busy_s"] < replicas["busy_s"]).all()


def test_runs_of_steps_add_up_too(result, monkeypatch):
    """Where there are too many steps for a row each."""
    monkeypatch.setattr("perfsim.serving.results._MOST_ROWS", 10)
    runs = dataclasses.replace(result).steps
    assert len(runs) < len(result.steps)
    assert runs["steps"].sum() == len(result.steps)
    assert (runs["steps"] * runs["decodes"]).sum() == result.steps["decodes"].sum()
    assert runs["end_s"].max() == result.steps["end_s"].max()
    assert runs["kv_blocks"].max() == result.steps["kv_blocks"].max()


def test_both_engines_make_the_same_result(result):
    """Down to the steps."""
    events = serve_requests(result.service, result.sent, simulator="simpy")
    assert events.requests.equals(result.requests)
    assert events.steps.equals(result.steps)
    assert (events.ttft_s, events.tpot_s, events.tokens_per_s) == (result.ttft_s, result.tpot_s, result.tokens_per_s)


def test_goodput(result):
    """Requests that meet all objectives; and each objective by itself."""
    median = result.percentiles([50]).loc[50]
    found = result.goodput(ttft_s=median["ttft_s"], latency_s=10 * median["latency_s"])
    assert found.share_of_each == {"ttft_s": 0.5, "latency_s": 1.0}
    assert float(found) == found.requests_per_s == pytest.approx(0.5 * result.requests_per_s)
    assert found.finding == ""


def test_objectives_that_nothing_meets_are_told(result):
    """Which one, and what came nearest."""
    found = result.goodput(ttft_s=1e-6, tpot_s=10)
    assert float(found) == 0
    assert found.finding.startswith("no request meets ttft_s <= 1 us: the fastest takes ")
    columns = {"ttft_s": np.array([1.0, 3.0]), "tpot_s": np.array([3.0, 1.0])}
    from perfsim.serving.goodput import goodput_of

    crossed = goodput_of(columns, 1.0, ttft_s=2.0, tpot_s=2.0, latency_s=None)
    assert crossed.finding == "no request meets all objectives together: ttft_s by 50.0%, tpot_s by 50.0%"
    nothing = goodput_of({"ttft_s": np.array([np.nan])}, 1.0, ttft_s=2.0, tpot_s=None, latency_s=None)
    assert nothing.finding == "no request has ended"


def test_bad_questions_are_refused(result, refused):
    """Objectives, percentages, replicas, windows."""
    assert refused(result.goodput)[0].field == "goodput.ttft_s, tpot_s, latency_s"
    assert [fault.field for fault in refused(result.goodput, ttft_s=0, tpot_s=-1)] == [
        "goodput.ttft_s", "goodput.tpot_s",
    ]  # fmt: skip
    assert refused(result.percentiles, [50, 101])[0].value == 101
    assert refused(result.plot_kv, replica=7)[0].field == "plot.replica"
    assert refused(result.plot_steps, start_s=2.0, end_s=1.0)[0].field == "plot_steps.start_s, end_s"


def test_a_load_that_does_not_drain_is_told(costs):
    """From its waits, not from its end, which always comes."""
    service = Service.of(costs, Engine("trtllm", max_sequences=4, times="none"))
    loads = {
        rate: serve_requests(
            service, OpenLoop(requests_per_s=rate, prompt_tokens=500, output_tokens=100, num_requests=300).requests()
        )
        for rate in (1, 100)
    }
    assert loads[1].drains
    assert loads[1].findings == ()
    assert not loads[100].drains
    assert "the load does not drain" in str(loads[100])
    assert serve_requests(service, Bursts(size=300, prompt_tokens=50, output_tokens=9).requests()).drains


def test_a_limit_of_time_keeps_what_there_is(costs):
    """The error carries the requests that have ended; the others have no times."""
    service = Service.of(costs, Engine("trtllm", max_sequences=2))
    requests = Bursts(size=50, prompt_tokens=500, output_tokens=100).requests()
    with pytest.raises(
        OverloadError, match=r"the load does not drain: \d+ of 50 requests have not ended after 5 s"
    ) as caught:
        serve_requests(service, requests, limit_s=5.0)
    partial = caught.value.partial
    ended = partial.requests["finish_s"].notna()
    assert 0 < ended.sum() < 50
    assert partial.requests.loc[ended, "finish_s"].max() <= 5
    assert partial.ttft_s == pytest.approx(partial.requests["ttft_s"].mean())  # of those with a first token
    assert partial.makespan_s == 5.0
    assert partial.replicas["utilization"].between(0, 1).all()
    assert partial.queue_at_end > 0
    assert not partial.drains
    assert partial.steps["end_s"].max() <= 5
    assert np.isfinite(partial.tokens_per_s)


def test_nothing_at_all_in_time(costs):
    """Means are NaN and rates are zero, without a warning."""
    requests = Bursts(size=3, prompt_tokens=500, output_tokens=100).requests()
    with pytest.raises(OverloadError) as caught:
        serve_requests(Service.of(costs, Engine()), requests, limit_s=1e-6)
    partial = caught.value.partial
    assert np.isnan([partial.ttft_s, partial.tpot_s]).all()
    assert (partial.tokens_per_s, partial.requests_per_s) == (0, 0)
    assert partial.goodput(ttft_s=1.0).finding == "no request has ended"
    assert partial.makespan_s == pytest.approx(1e-6)
    assert "TTFT –, TPOT –, 0 tokens/s" in str(partial)
    assert "nan" not in str(partial)


def test_first_tokens_count_where_nothing_ends(costs):
    """And a run that is cut short lasts from its first request to the limit, whenever that request comes."""
    requests = OpenLoop(requests_per_s=50, prompt_tokens=500, output_tokens=5000, num_requests=200).requests()
    with pytest.raises(OverloadError, match="or raise the limit") as caught:
        serve_requests(Service.of(costs, Engine()), requests, limit_s=3.0)
    partial = caught.value.partial
    assert partial.requests["finish_s"].isna().all()
    assert 0 < partial.ttft_s < 3
    assert partial.makespan_s == pytest.approx(3 - requests.arrival_s[0])
    assert (partial.replicas["utilization"] <= 1).all()


def test_a_replica_has_an_engine_for_each_lane(costs):
    """Rows of tables say which; pictures are of one; words count whole replicas."""
    service = Service.of(dataclasses.replace(costs, lanes=2), Engine("vllm", kv_blocks=400), Deployment(replicas=2))
    result = serve_requests(service, ClosedLoop(concurrency=8, prompt_tokens=300, output_tokens=60).requests())
    assert "on 2 replicas of 2 lanes of vllm" in str(result)
    assert result.replicas[["replica", "lane"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert result.replicas.index.name == "engine"
    for table in (result.requests, result.steps):
        assert set(map(tuple, table[["replica", "lane"]].to_numpy().tolist())) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    steps = result.steps.groupby(["replica", "lane"]).size().tolist()
    assert steps == result.replicas["steps"].tolist()
    assert result.plot_kv(replica=1, lane=1).has_data()
    with pytest.raises(InputError, match=r"plot\.lane = 2"):
        result.plot_steps(lane=2)


def test_preemptions_are_told(costs):
    """The cache is too small, by how many preemptions."""
    service = Service.of(costs, Engine("vllm", kv_blocks=100, times=EngineTimes()))
    result = serve_requests(service, Bursts(size=20, prompt_tokens=600, output_tokens=300).requests())
    assert result.outcome.preemptions.sum() > 0
    assert any("the KV cache is too small" in finding for finding in result.findings)
    full = dataclasses.replace(service.engines[0], reservation="full")
    waits = serve_requests(Service(service.tables, (full,)), result.sent)
    assert waits.findings == () or "full at times" in waits.findings[0]


def test_a_result_shows_itself(result):
    """As text and in a notebook."""
    assert "80 requests on 2 replicas of vllm" in str(result)
    assert "ttft_p99_s" in result._repr_html_()
    assert result.summary["requests"] == 80


@pytest.mark.parametrize("name", ["plot_latencies", "plot_steps", "plot_kv"])
def test_pictures_show_the_data(result, name):
    """Each draws something, within its axes."""
    ax = getattr(result, name)()
    assert ax.figure is not None
    assert ax.get_title(loc="left")
    assert ax._repr_png_()[:4] == b"\x89PNG"


def test_the_picture_of_steps_keeps_their_area(result):
    """Decodes over time: the mean of all columns is the mean of all steps, weighted by their time."""
    from perfsim.serving.bands import mean_over_time

    mine = result.steps[result.steps["replica"] == 1]
    edges = np.linspace(0.0, mine["end_s"].max(), 50)
    wanted = (mine["decodes"] * (mine["end_s"] - mine["start_s"])).sum() / mine["end_s"].max()
    assert mean_over_time(mine, "decodes", edges).mean() == pytest.approx(wanted)


def test_the_picture_of_steps_keeps_their_peaks(result):
    """The most of each column is that of the steps in it, and nothing where there is none."""
    from perfsim.serving.bands import most_over_time

    mine = result.steps[result.steps["replica"] == 0]
    edges = np.linspace(-1.0, mine["end_s"].max() + 1, 300)
    found = most_over_time(mine, "kv_blocks", edges)
    for place in (0, 40, 150, 299 - 2):
        inside = mine[(mine["start_s"] < edges[place + 1]) & (mine["end_s"] > edges[place])]
        assert found[place] == inside["kv_blocks"].max() if len(inside) else found[place] == 0
    assert found.max() == mine["kv_blocks"].max()


def test_pictures_draw_on_the_axes_that_they_are_given(result):
    """And return them."""
    from matplotlib.figure import Figure

    for axes in Figure().subplots(3, 1)[None]:
        for ax, draw in zip(axes, (result.plot_latencies, result.plot_steps, result.plot_kv), strict=True):
            assert draw(ax) is ax
            assert ax.get_xlabel().startswith("time")
