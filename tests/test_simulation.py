"""From a scenario to a result: metrics by hand, both phases, every degree, and the same again every time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim

ROOT = Path(__file__).resolve().parent.parent
H100_BF16 = 989.4e12
WEIGHTS = 16 * (4 * 8192**2 + 2 * 8192 * 32768)


@pytest.fixture(scope="module")
def result(improved):
    """Give the result of the improved seed scenario, TP8 x PP2."""
    return perfsim.simulate(improved)


def test_mfu_counts_half_of_the_pairs(result):
    """FLOP by hand over what 16 GPUs can do in the makespan; beside it all pairs."""
    available = 16 * H100_BF16 * result.makespan_s
    linear, pairs = 2 * WEIGHTS * 10_240_000, 16 * 4 * 8192 * 1024 * 10_000**2
    assert linear + pairs == pytest.approx(3.18e17, rel=0.002)
    assert linear + pairs / 2 == pytest.approx(2.91e17, rel=0.002)
    assert result.mfu == pytest.approx((linear + pairs / 2) / available, rel=1e-12)
    assert result.mfu_full_attention == pytest.approx((linear + pairs) / available, rel=1e-12)


def test_without_a_mask_both_mfus_are_the_same(improved):
    """All pairs are asked for."""
    result = perfsim.simulate(improved.with_(batch_size=4, causal=False))
    assert result.mfu == result.mfu_full_attention


def test_mfu_is_against_the_peak_of_the_data_type(improved):
    """fp8 multiplies twice as fast, so the same time would be half the utilization."""
    results = {dtype: perfsim.simulate(improved.with_(batch_size=4, dtype=dtype)) for dtype in ("bf16", "fp8")}
    flop = {
        dtype: r.mfu * r.makespan_s * r.scenario.cluster.accelerator.peak_flop_per_s[dtype]
        for dtype, r in results.items()
    }
    assert flop["bf16"] == pytest.approx(flop["fp8"])


def test_tokens_and_first_sequence(result):
    """All tokens over the makespan; the first sequence leaves with the first microbatch."""
    assert result.tokens_per_s == 10_240_000 / result.makespan_s
    first = result.timeline[result.timeline["microbatch"] == 0]
    assert result.first_sequence_s == first["end_s"].max()


def test_the_seed_plans_rank_as_known(seeds):
    """The pipelined placement wins on throughput, tensor parallelism by far on latency, the baseline on neither."""
    results = {name.removeprefix("seed-"): perfsim.simulate(scenario) for name, scenario in seeds.items()}
    makespan = {name: r.makespan_s for name, r in results.items()}
    first = {name: r.first_sequence_s for name, r in results.items()}
    assert makespan["layerwise-pipelined"] < makespan["improved"] < makespan["baseline"]
    assert first["improved"] < first["baseline"] / 4
    assert first["baseline"] == first["layerwise-pipelined"]
    assert makespan["baseline"] == pytest.approx(1024 * first["baseline"])


@settings(max_examples=25)
@given(data=st.data())
def test_figures_stay_within_their_bounds(data, small_scenarios):
    """Nothing beats the speed of light, no share is above one."""
    result = perfsim.simulate(data.draw(small_scenarios))
    assert 0 < result.mfu <= result.mfu_full_attention < 1
    assert 0 <= result.bubble_fraction < 1
    assert 0 <= result.communication_fraction <= 1
    assert 0 < result.first_sequence_s <= result.makespan_s


@settings(max_examples=20)
@given(data=st.data())
def test_two_runs_on_either_engine_are_the_same_to_the_bit(data, small_scenarios):
    """Nothing depends on order, time or chance."""
    scenario = data.draw(small_scenarios)
    runs = [perfsim.simulate(scenario, engine=engine) for engine in ("compiled", "compiled", "simpy")]
    ends = [run.run.timeline.end_ps.tobytes() for run in runs]
    assert ends[0] == ends[1] == ends[2]
    assert runs[0].timeline.equals(runs[1].timeline)
    assert runs[0].summary.equals(runs[2].summary)


def test_decode_works_from_end_to_end(improved):
    """One token of each sequence against 10,000 of context: bound by memory, the cache stays."""
    decode = perfsim.simulate(improved.with_(phase="decode", keep_kv_cache=True, batch_size=64, microbatch_size=32))
    attention = decode.operators[decode.operators["op"] == "attention"].iloc[0]
    matmul = decode.operators[decode.operators["op"] == "mlp_up"].iloc[0]
    assert decode.fits
    assert decode.tokens_per_s == 64 / decode.makespan_s
    assert (attention["bound"], matmul["bound"]) == ("memory", "memory")
    assert attention["flop"] == 4 * 32 * 2 * 512 * 10_000
    assert decode.mfu == decode.mfu_full_attention < 0.05
    assert decode.memory["kv_cache_bytes"].sum() == 64 * 10_000 * 2 * 16 * 8192 * 2
    weights_s = decode.memory["weights_bytes"].iloc[0] / 3.35e12
    assert decode.makespan_s > 2 * weights_s
    assert decode.dag.verify().passed


def test_replicas_share_the_batch(improved):
    """Four replicas of TP4 take a quarter each, without a word to each other."""
    four = perfsim.simulate(improved.with_(tensor=4, pipeline=1, data=4, batch_size=32))
    alone = perfsim.simulate(improved.with_(tensor=4, pipeline=1, batch_size=8))
    assert four.makespan_s == alone.makespan_s
    assert four.tokens_per_s == 4 * alone.tokens_per_s
    assert four.mfu == pytest.approx(alone.mfu)
    assert list(four.load_balance.index) == list(range(16))
    assert four.memory["kv_cache_if_kept_bytes"].sum() == 32 * 10_000 * 2 * 16 * 8192 * 2
    assert four.dag.verify().passed


def test_a_batch_smaller_than_the_pipeline(improved):
    """Three sequences through eight stages: most of the time most stages wait."""
    result = perfsim.simulate(improved.with_(tensor=1, pipeline=8, batch_size=3, microbatch_size=None))
    assert result.scenario.microbatch_sizes == (1, 1, 1)
    assert 0.6 < result.bubble_fraction < 0.8
    assert list(result.load_balance["stage"]) == list(range(8))


def test_a_microbatch_larger_than_the_batch_is_the_batch(improved):
    """Rather than an error or an empty run."""
    large, whole = (perfsim.simulate(improved.with_(batch_size=5, microbatch_size=size)) for size in (64, 5))
    assert large.scenario.microbatch_sizes == (5,)
    assert large.makespan_s == whole.makespan_s
    assert large.summary.equals(whole.summary)


def test_a_ragged_last_microbatch_is_priced_at_its_size(improved):
    """Nine in fours take less than twelve in fours."""
    ragged, full = (perfsim.simulate(improved.with_(batch_size=batch, microbatch_size=4)) for batch in (9, 12))
    assert len(ragged.run.end_ps) == len(full.run.end_ps) == 3
    assert ragged.makespan_s < full.makespan_s
    assert ragged.first_sequence_s == full.first_sequence_s


def test_one_sequence_of_one_token(improved):
    """The smallest workload there is."""
    result = perfsim.simulate(improved.with_(batch_size=1, sequence_length=1))
    assert 0 < result.makespan_s < 0.01
    assert result.first_sequence_s == result.makespan_s


def test_unknown_engines_and_details_are_refused_together(refused, improved):
    """With what is allowed and what was perhaps meant."""
    engine, detail = refused(perfsim.simulate, improved, engine="simpi", detail=3)
    assert (engine.field, engine.way_out) == ("simulate.engine", "did you mean 'simpy'?")
    assert (detail.field, detail.value) == ("simulate.detail", 3)


@pytest.mark.parametrize("thing", ["seed-improved", None])
def test_what_is_no_scenario_is_refused(refused, thing):
    """Not with an attribute error from somewhere inside."""
    (fault,) = refused(perfsim.simulate, thing)
    assert "scenario" in fault.field


def test_a_result_prints_itself(result):
    """The main figures in a few lines, and as a table in a notebook."""
    text = str(result)
    assert "TP8 x PP2, microbatch 1" in text
    assert "prefill of 1024 x 10000 tokens" in text
    assert f"MFU {result.mfu:.1%} (all pairs counted: {result.mfu_full_attention:.1%})" in text
    assert "fits" in text
    assert ">Makespan<" in result._repr_html_()


def test_the_summary_is_the_properties(result):
    """One place for a number; plain types that JSON can write."""
    summary = result.summary
    for name in ("makespan_s", "tokens_per_s", "first_sequence_s", "mfu", "mfu_full_attention", "fits"):
        assert summary[name] == getattr(result, name)
    assert summary["peak_bytes"] == result.memory["peak_bytes"].max()
    assert all(type(value) in {float, int, bool} for value in summary)


def test_views_of_a_device_show_that_device(result):
    """Devices of the second stage have its buffers; one that is not there is refused."""
    first, second = result.memory_at_peak(0), result.memory_at_peak(15)
    assert "receive buffers" not in set(first["what"])
    assert "receive buffers" in set(second["what"])
    assert np.all(result.memory_over_time(15)["total_bytes"] > result.memory.loc[15, "weights_bytes"])


@pytest.mark.parametrize("device", [16, -1])
@pytest.mark.parametrize("view", ["memory_over_time", "memory_at_peak"])
def test_a_device_that_is_not_there_is_refused(refused, result, view, device):
    """With the devices that are."""
    (fault,) = refused(getattr(result, view), device)
    assert "device" in fault.field
    assert "15" in fault.allowed


def test_more_work_than_picoseconds_can_hold_is_refused(refused, improved):
    """Rather than a wrong time."""
    (fault,) = refused(perfsim.simulate, improved.with_(batch_size=10**9, microbatch_size=10**9 // 2))
    assert "s of work" in fault.value
    assert fault.way_out


def test_nothing_is_written_unless_asked(tmp_path):
    """A simulation with all its tables leaves the folder in which it runs empty, and that for temporary files."""
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    code = (
        "import perfsim\n"
        "r = perfsim.simulate(perfsim.load_scenario('seed-improved').with_(batch_size=4))\n"
        "r.timeline, r.load_balance, r.links, r.memory, r.operators, r.critical_path, r.memory_findings\n"
        "assert r.dag.verify().passed\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    subprocess.run([sys.executable, "-c", code], cwd=here, env=environment, check=True)
    assert list(here.iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_a_result_draws_itself(improved):
    """Each method draws on the axes that it is given and hands the zoom on; those of a new figure show themselves."""
    from matplotlib.figure import Figure

    result = perfsim.simulate(improved.with_(batch_size=4))
    draw = {
        "plot_timeline": {"stage": 1, "microbatch": 2},
        "plot_roofline": {},
        "plot_operators": {},
        "plot_load_balance": {},
        "plot_memory": {},
        "plot_memory_over_time": {"device": 9, "end_s": 0.1},
    }
    for name, arguments in draw.items():
        ax = Figure().add_subplot()
        assert getattr(result, name)(ax=ax, **arguments) is ax
        assert ax.has_data()
        assert getattr(result, name)()._repr_png_().startswith(b"\x89PNG")
    ax = result.plot_timeline(stage=1, microbatch=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["GPUs 8–15 (stage 1)"]
    with pytest.raises(perfsim.InputError, match="the 2 stages, 0 to 1"):
        result.plot_timeline(stage=2)
