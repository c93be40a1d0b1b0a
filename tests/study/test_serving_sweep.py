"""Sweeps of serving: every row is what `serve` gives, whatever varies, and what cannot be served says why."""

import dataclasses
import itertools
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.serving.engine_times import EngineTimes
from perfsim.serving.services import Services
from perfsim.study import serving_sweep
from perfsim.study.serving_figures import SERVED, SERVED_FIGURES

CLOSED = perfsim.ClosedLoop(concurrency=4, prompt_tokens=512, output_tokens=32, num_requests=16)
OPEN = perfsim.OpenLoop(requests_per_s=4, prompt_tokens=512, output_tokens=32, num_requests=60)
ENGINE = perfsim.Engine("vllm")


@pytest.fixture(scope="module")
def scenario():
    """Give Llama-3.1-8B on one H100."""
    return perfsim.Scenario(
        perfsim.load_cluster("dgx-h100"), perfsim.load_model("llama-3.1-8b"), perfsim.Plan(), perfsim.Workload()
    )


def quiet(scenario, traffic=CLOSED, engine=ENGINE, **keywords):
    """Sweep without a bar."""
    return perfsim.sweep(scenario, traffic=traffic, engine=engine, progress=False, **keywords)


# The table


def test_a_row_is_what_serve_gives(scenario):
    """To the bit, with axes of all parts, the last one fastest."""
    axes = {"tensor": [1, 2], "concurrency": [1, 8], "token_budget": [1024, 4096], "replicas": [1, 2]}
    table = quiet(scenario, **axes, ttft_s=0.05, tpot_s=0.02)
    assert list(table) == [*axes, *SERVED]
    points = list(itertools.product(*axes.values()))
    assert table[list(axes)].apply(tuple, axis=1).tolist() == points
    for (tensor, concurrency, budget, replicas), (_, row) in zip(points, table.iterrows(), strict=True):
        traffic = perfsim.ClosedLoop(concurrency=concurrency, prompt_tokens=512, output_tokens=32, num_requests=16)
        result = perfsim.serve(
            scenario.with_(tensor=tensor), traffic, perfsim.Engine("vllm", token_budget=budget),
            deployment=perfsim.Deployment(replicas=replicas),
        )  # fmt: skip
        percentiles = result.percentiles((50, 90, 99))
        for name in ("ttft_s", "tpot_s", "latency_s"):
            assert row[name] == getattr(result, name)
            of_them = [row[f"{name.removesuffix('_s')}_p{percent}_s"] for percent in (50, 90, 99)]
            assert of_them == percentiles[name].tolist()
        assert row["tokens_per_s"] == result.tokens_per_s
        assert row["gpus"] == tensor * replicas
        assert row["tokens_per_s_per_gpu"] == result.tokens_per_s / (tensor * replicas)
        assert row["completed_requests_per_s"] == result.requests_per_s
        goodput = result.goodput(ttft_s=0.05, tpot_s=0.02)
        assert (row["goodput_requests_per_s"], row["goodput_share"]) == (goodput.requests_per_s, goodput.share)
        assert row["most_kv_share"] == result.replicas["most_kv_share"].max()
        assert row["makespan_s"] == result.makespan_s
        assert row["drains"] == result.drains
        assert row["fits"]
        assert not row["reason"]


def test_gpus_of_stages_are_counted_once(scenario):
    """A lane is a batch on its way, not a set of GPUs of its own."""
    table = quiet(scenario, pipeline=[1, 2], replicas=[1, 2])
    assert table["gpus"].tolist() == [1, 2, 2, 4]
    assert (table["tokens_per_s_per_gpu"] * table["gpus"]).tolist() == pytest.approx(table["tokens_per_s"].tolist())


VALUES = {
    "traffic.concurrency": [1, 3, 9], "traffic.prompt_tokens": [64, 700], "traffic.seed": [0, 5],
    "engine.policy": ["vllm", "trtllm", "sglang"], "engine.max_sequences": [2, 64], "engine.kv_blocks": [None, 90],
    "deployment.replicas": [1, 2], "deployment.router": ["round-robin", "least-loaded"], "plan.tensor": [1, 2],
    "plan.data": [1, 2], "workload.kv_dtype": ["bf16", "fp8"], "cluster.accelerator.memory_bytes_per_s": [2e12, 3e12],
}  # fmt: skip


@settings(max_examples=8)
@given(st.data())
def test_any_axes_in_any_order_give_what_serve_gives(scenario, data):
    """Short or dotted names, of any part; a point of the table is one call."""
    paths = data.draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4, unique=True))
    names = [path if path.count(".") > 1 or data.draw(st.booleans()) else path.rpartition(".")[2] for path in paths]
    table = quiet(scenario, **{name: VALUES[path] for name, path in zip(names, paths, strict=True)})
    row = table.iloc[data.draw(st.integers(0, len(table) - 1))]
    parts = {"traffic": CLOSED, "engine": ENGINE, "deployment": None}
    changed = {"deployment": {}, "traffic": {}, "engine": {}, "scenario": {"batch_size": 2}}
    for name, path in zip(names, paths, strict=True):
        part, _, field = path.partition(".")
        value = next(value for value in VALUES[path] if value == row[name] or (value is None and pd.isna(row[name])))
        changed[part if part in parts else "scenario"][field if part in parts else path] = value
    made = scenario.with_(**changed["scenario"])
    deployment = perfsim.Deployment(**{"replicas": made.plan.data, **changed["deployment"]})
    traffic, engine = (dataclasses.replace(parts[name], **changed[name]) for name in ("traffic", "engine"))
    if not row["fits"]:
        with pytest.raises(perfsim.InputError):
            perfsim.serve(made, traffic, engine, deployment=deployment)
        return
    result = perfsim.serve(made, traffic, engine, deployment=deployment)
    assert (row["ttft_s"], row["tpot_s"]) == (result.ttft_s, result.tpot_s)


def test_whole_engines_and_traffics_vary_by_their_labels(scenario):
    """In a list or with names; their fields stand beside them, and one of them may vary too."""
    table = quiet(scenario, [CLOSED, OPEN][:1], [perfsim.Engine("vllm"), perfsim.Engine("trtllm")], seed=[0, 1])
    assert table["engine"].tolist() == ["vllm", "vllm", "trtllm", "trtllm"]
    assert table["engine.policy"].tolist() == table["engine"].tolist()
    assert table["traffic.concurrency"].eq(4).all()
    free = perfsim.Engine(times=EngineTimes(elementwise_share=ENGINE.host.elementwise_share))
    named = quiet(scenario, OPEN, {"lean": free, "usual": ENGINE}, requests_per_s=[2, 4.5])
    assert named["engine"].tolist() == ["lean", "lean", "usual", "usual"]
    assert named["requests_per_s"].tolist() == [2, 4.5, 2, 4.5]
    lean, usual = named["tpot_s"].to_numpy().reshape(2, 2)
    assert (lean < usual).all()


def test_without_objectives_there_is_no_goodput(scenario):
    """It is missing, not zero."""
    table = quiet(scenario, concurrency=[2])
    assert table[["goodput_requests_per_s", "goodput_share"]].isna().all(axis=None)


def test_replicas_are_those_of_the_plan_unless_told_otherwise(scenario):
    """Also where only the router varies; any batch will do."""
    table = quiet(scenario, data=[1, 2, 3], router=["round-robin", "least-loaded"])
    assert table["gpus"].tolist() == [1, 1, 2, 2, 3, 3]
    assert perfsim.scenario_at(table.iloc[-1]).plan.data == 3
    assert quiet(scenario, deployment=perfsim.Deployment(replicas=5), data=[2])["gpus"].tolist() == [5]
    plans = quiet(scenario, plan={"two": perfsim.Plan(data=2), "wide": perfsim.Plan(tensor=2)})
    assert plans["gpus"].tolist() == [2, 2]


def test_points_of_a_scenario_share_their_costs(scenario, monkeypatch):
    """However the axes are written, a block fills the tables of each scenario once."""
    made = []

    class Counted(Services):
        def __init__(self, scenario):
            made.append(scenario.plan.tensor)
            super().__init__(scenario)

    monkeypatch.setattr(serving_sweep, "Services", Counted)
    quiet(scenario, concurrency=[1, 2, 3], tensor=[1, 2], token_budget=[1024, 2048])
    assert made == [1, 2]


# What cannot be served


def test_what_cannot_be_served_is_a_row_with_its_reason(scenario):
    """A model that does not fit, a cache too small for a request, a ring, prompts over the context."""
    large = quiet(scenario, model={"8b": scenario.model, "405b": perfsim.load_model("llama-3.1-405b")})
    assert large["fits"].tolist() == [True, False]
    assert large["reason"].iloc[1].startswith("does not fit: engine.kv_blocks")
    assert large.iloc[1][list(SERVED_FIGURES)].isna().all()
    blocks = quiet(scenario, kv_blocks=[10, 1000])
    assert blocks["fits"].tolist() == [False, True]
    assert "must hold one request" in blocks["reason"].iloc[0]
    staged = quiet(scenario, context=[1, 2], concurrency=[1, 2])
    assert staged["fits"].tolist() == [True, True, False, False]
    assert staged["reason"].iloc[2].startswith("impossible: scenario.plan.context = 2")
    prompts = quiet(scenario, prompt_tokens=[512, 200_000], policy=["vllm", "trtllm"])
    assert prompts["fits"].tolist() == [True, True, False, False]
    assert "context" in prompts["reason"].iloc[2]
    budgets = quiet(scenario, token_budget=[64, 1024], max_sequences=[32, 128])
    assert budgets["fits"].tolist() == [True, False, True, True]
    assert "every decode takes a token" in budgets["reason"].iloc[1]
    assert not large["drains"].iloc[1]


def test_a_load_that_does_not_drain_is_a_row_that_says_so(scenario):
    """It has its figures, and fits."""
    table = quiet(scenario, OPEN, perfsim.Engine(max_sequences=4), requests_per_s=[1.0, 200.0])
    assert table["drains"].tolist() == [True, False]
    assert table["fits"].all()
    assert table["reason"].tolist() == ["", "does not drain: requests come faster than they are served"]
    assert table["ttft_s"].notna().all()


@pytest.mark.parametrize(
    ("keywords", "fields"),
    [
        ({"concurency": [1]}, ["sweep.concurency"]),
        ({"requests_per_s": [1]}, ["sweep.requests_per_s"]),
        ({"concurrency": []}, ["sweep.concurrency"]),
        ({"concurrency": [0]}, ["traffic.concurrency"]),
        ({"token_budget": ["many"]}, ["engine.token_budget"]),
        ({"batch_size": [1, 2]}, ["sweep.batch_size"]),
        ({"engine": "vllm", "concurrency": [1]}, ["sweep.engine"]),
        ({"engine": [], "concurrency": [1]}, ["sweep.engine"]),
        ({"engine": [ENGINE, "trtllm"]}, ["sweep.engine"]),
        ({"traffic": None, "token_budget": [1]}, ["sweep.traffic"]),
        ({"traffic": [CLOSED, OPEN]}, ["sweep.traffic"]),
        ({"ttft_s": 0, "concurrency": [1]}, ["sweep.ttft_s"]),
        ({"deployment": 2, "concurrency": [1]}, ["sweep.deployment"]),
        ({"workers": 0, "concurrency": [1]}, ["sweep.workers"]),
        ({}, ["sweep.axes"]),
    ],
)
def test_bad_axes_are_refused_before_anything_runs(refused, scenario, keywords, fields):
    """With the nearest legal name where there is one."""
    faults = refused(quiet, scenario, **keywords)
    assert [fault.field for fault in faults] == fields
    if "concurency" in keywords:
        assert "did you mean 'concurrency'?" in faults[0].way_out


def test_objectives_alone_ask_for_traffic_and_engine(refused, scenario):
    """They mean nothing where nothing is served."""
    faults = refused(perfsim.sweep, scenario, ttft_s=1.0, batch_size=[1])
    assert [fault.field for fault in faults] == ["sweep.traffic", "sweep.engine"]


# Wherever and however often


@pytest.fixture
def small_blocks(monkeypatch):
    """Make blocks of three points."""
    monkeypatch.setattr(serving_sweep, "LENGTH", 3)


AXES = {"concurrency": [1, 2, 4, 8], "tensor": [1, 2]}


def test_blocks_give_the_same_table_wherever_they_are_made(scenario, small_blocks):
    """By threads at the same time, and from a task that went to another process; to the bit."""
    alone = quiet(scenario, **AXES)
    with ThreadPoolExecutor(2) as pool:
        pd.testing.assert_frame_equal(quiet(scenario, executor=pool, **AXES), alone, check_exact=True)
    given = {"traffic": CLOSED, "engine": ENGINE, "deployment": None, "ttft_s": None, "tpot_s": None, "latency_s": None}
    task = pickle.loads(pickle.dumps(serving_sweep.serving_task(scenario, AXES, given)))  # noqa: S301
    there = pd.concat([task.block(first) for first in task.firsts()]).sort_index()
    pd.testing.assert_frame_equal(there, alone, check_exact=True)


def test_ctrl_c_keeps_what_is_done(scenario, small_blocks, tmp_path, monkeypatch):
    """The next call computes only the rest, and the table is that of one that nobody interrupted."""
    served, count = serving_sweep.serve_requests, itertools.count(1)

    def interrupted(*args):
        if next(count) == 8:
            signal.raise_signal(signal.SIGINT)
        return served(*args)

    monkeypatch.setattr(serving_sweep, "serve_requests", interrupted)
    with pytest.raises(perfsim.SweepInterruptedError, match="6 of 8 points were done"):
        quiet(scenario, path=tmp_path / "kept", **AXES)
    rest = quiet(scenario, path=tmp_path / "kept", **AXES)
    assert next(count) == 11
    monkeypatch.undo()
    pd.testing.assert_frame_equal(rest, quiet(scenario, **AXES), check_exact=True)


def test_a_folder_of_another_sweep_is_refused(refused, scenario, tmp_path):
    """Another engine, traffic or objective is another sweep."""
    folder = tmp_path / "kept"
    quiet(scenario, path=folder, **AXES)
    others = (
        {**AXES, "engine": perfsim.Engine("trtllm")},
        {**AXES, "ttft_s": 1.0},
        {**AXES, "deployment": perfsim.Deployment(replicas=2)},
        {"traffic": OPEN, "requests_per_s": [1, 2, 4, 8], "tensor": [1, 2]},
    )
    for other in others:
        (fault,) = refused(quiet, scenario, path=folder, **other)
        assert "holds another sweep" in fault.allowed


def test_traces_vary_in_speed_and_file(scenario, tmp_path):
    """A path is a value like any other, in files too."""
    paths = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for count, path in enumerate(paths, 1):
        rows = "\n".join(f"{0.1 * number},256,{8 * count}" for number in range(20))
        path.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}\n", encoding="utf-8")
    table = quiet(
        scenario, perfsim.Trace(paths[0]), speed=[1.0, 4.0], path=tmp_path / "kept",
        **{"traffic.path": {path.name: path for path in paths}},
    )  # fmt: skip
    assert table["traffic.path"].tolist() == ["one.csv", "two.csv"] * 2
    assert (table["completed_requests_per_s"].iloc[2:].to_numpy() > table["completed_requests_per_s"].iloc[:2]).all()


# Pictures


@pytest.fixture(scope="module")
def plans(scenario):
    """Give throughput and latency of three plans at some concurrencies."""
    return quiet(scenario, concurrency=[1, 4, 16], tensor=[1, 2, 4])


@pytest.mark.parametrize(("x", "y"), [("tpot_s", "tokens_per_s_per_gpu"), ("tokens_per_s_per_gpu", "tpot_s")])
def test_the_front_of_throughput_against_tpot_is_that_of_its_definition(plans, x, y):
    """More tokens and less time are better, on either axis; it says so with its units."""
    ax = perfsim.plot_pareto(plans, x, y)
    front = {(float(a), float(b)) for a, b in zip(*ax.lines[1].get_data(), strict=True)}
    time_s, gain = plans["tpot_s"].to_numpy(), plans["tokens_per_s_per_gpu"].to_numpy()
    better = (time_s <= time_s[:, None]) & (gain >= gain[:, None])
    strictly = (time_s < time_s[:, None]) | (gain > gain[:, None])
    wanted = plans[~(better & strictly).any(axis=1)]
    assert front == set(zip(wanted[x].tolist(), wanted[y].tolist(), strict=True))
    assert 1 < len(front) < len(plans)
    assert {ax.get_xlabel(), ax.get_ylabel()} == {"TPOT (ms)", "throughput of a GPU (tokens/s)"}
    assert any("concurrency" in text.get_text() and "tensor" in text.get_text() for text in ax.texts)


def test_throughput_against_latency_is_a_line_for_each_plan(plans):
    """Over the loads, by either column."""
    ax = perfsim.plot_lines(plans, "tokens_per_s", "ttft_p99_s", by="tensor")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["tensor 1", "tensor 2", "tensor 4"]
    assert ax.get_ylabel() == "TTFT p99 (ms)"
    over = perfsim.plot_lines(plans, "concurrency", "completed_requests_per_s", by="tensor")
    assert (over.get_xlabel(), over.get_ylabel()) == ("concurrency (clients)", "requests completed (requests/s)")


def test_a_rate_has_its_unit(scenario):
    """It does not end in seconds."""
    table = quiet(scenario, OPEN, requests_per_s=[1, 4])
    assert perfsim.plot_lines(table, "requests_per_s", "most_kv_share").get_xlabel() == "request rate (requests/s)"
