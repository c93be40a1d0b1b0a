"""What each kind of plan does to the times: bubbles, bytes on the wire, what is hidden and what is waited for."""

import dataclasses
from itertools import groupby, pairwise

import numpy as np
import pytest

import perfsim
from perfsim.ops.operators import Collective, ExpertExchange
from perfsim.report.lanes import COMPUTE
from perfsim.spec.components import Efficiency
from perfsim.spec.hardware import NetworkTier
from perfsim.spec.model import Model


@pytest.fixture(scope="module")
def ideal(h100):
    """Give a function that makes a node without fixed times, of kernels at their peaks and links of a bandwidth."""

    def make(bytes_per_s=1e30, num_devices=64):
        tiers = (NetworkTier("link", bytes_per_s, 1e-15),)
        efficiency = Efficiency(matmul=1.0, attention=1.0, memory=1.0, network=1.0)
        return dataclasses.replace(
            h100, name="ideal", tiers=tiers, num_devices=num_devices, efficiency=efficiency, kernels="", coefficients={}
        )

    return make


@pytest.fixture(scope="module")
def stack():
    """Give sixteen equal layers, without embedding and head, large enough that matrices are bound by their FLOP."""
    return Model("stack", num_hidden_layers=16, hidden_size=4096, num_attention_heads=32, intermediate_size=16_384)


def simulate(cluster, model, plan, **workload):
    """Simulate a prefill."""
    return perfsim.simulate(perfsim.Scenario(cluster, model, perfsim.Plan(**plan), perfsim.Workload(**workload)))


def spans_of(result, op, device=0, layer=1):
    """Give starts and ends of an operator of a layer on a device, in picoseconds, in each microbatch."""
    frame = result.timeline
    mine = frame[(frame["device"] == device) & (frame["op"] == op) & (frame["layer"] == layer)]
    return [tuple(np.rint(mine[name].to_numpy() * 1e12).astype(np.int64).tolist()) for name in ("start_s", "end_s")]


@pytest.mark.parametrize("microbatches", [4, 8, 20])
@pytest.mark.parametrize("stages", [2, 4])
def test_interleaving_divides_the_bubble(ideal, stack, stages, microbatches):
    """A pass takes a share of a stage's time, and the bubble is (stages - 1) of them (Narayanan et al., 2021)."""
    workload = {"batch_size": microbatches, "sequence_length": 512}
    whole = simulate(ideal(), stack, {}, batch_size=1, sequence_length=512).run.makespan_ps
    for virtual in (1, 2, 4):
        plan = {"pipeline": stages, "virtual_stages": virtual, "microbatch_size": 1}
        run = simulate(ideal(), stack, plan, **workload).run
        filled = microbatches * whole // stages
        bubble = (stages - 1) * whole // stages // virtual
        assert run.makespan_ps == pytest.approx(filled + bubble, abs=stages * virtual * microbatches)


def test_a_round_of_microbatches_passes_a_stage_before_it_comes_back(ideal, stack):
    """The order on every stage: all of a round through the first part of the layers, then through the second."""
    plan = {"pipeline": 2, "virtual_stages": 2, "microbatch_size": 1}
    frame = simulate(ideal(1e12), stack, plan, batch_size=6, sequence_length=512).timeline
    for device, first, second in ((0, 0, 8), (1, 4, 12)):
        mine = frame[(frame["device"] == device) & frame["layer"].notna()].sort_values("start_s", kind="stable")
        order = [key for key, _ in groupby(zip(mine["microbatch"], mine["layer"] // 8 * 8 + first % 8, strict=True))]
        wanted = [(m, layer) for r in (0, 2, 4) for layer in (first, second) for m in (r, r + 1)]
        assert order == wanted


def test_interleaving_costs_hand_overs(ideal, stack):
    """Each pass hands over once more: with a slow link the bubble is no longer what counts."""
    sent = {}
    for virtual in (1, 4):
        plan = {"pipeline": 4, "virtual_stages": virtual, "microbatch_size": 1}
        result = simulate(ideal(1e9), stack, plan, batch_size=8, sequence_length=512)
        sends = result.timeline["op"] == "send"
        sent[virtual] = (int(sends.sum()), result.makespan_s)
    assert sent[1][0] == 8 * 3
    assert sent[4][0] == 8 * 15
    assert sent[4][1] > sent[1][1]


def wire_bytes(result):
    """Add up the bytes that one device sends in the collectives of a layer."""
    works = (operator.work for operator in result.dag if operator.layer == 1)
    return sum(sum(work.wire_bytes) for work in works if isinstance(work, Collective))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("name", ["llama", "qwen2-moe", "deepseek"])
def test_sequence_parallelism_sends_what_all_reduces_send(h100, families, phase, name):
    """A reduce-scatter and an all-gather are the two halves of a ring all-reduce, of attention and of the MLP."""
    both = [
        simulate(h100, families[name], {"tensor": 4, **shared}, phase=phase, batch_size=8, sequence_length=512)
        for shared in ({}, {"sequence_parallel": True})
    ]
    assert wire_bytes(both[0]) == wire_bytes(both[1]) > 0


def test_sequence_parallelism_shares_what_stands_between_the_matrices(h100, families):
    """Norms and residuals of a quarter of the tokens, hand-overs of a quarter of the bytes."""
    workload = {"batch_size": 4, "sequence_length": 512}
    plain, shared = (
        simulate(h100, families["llama"], {"tensor": 4, "pipeline": 2, "sequence_parallel": flag}, **workload).dag
        for flag in (False, True)
    )
    for name in ("layer_01.attention_residual", "layer_01.mlp_residual"):
        assert shared[name].work.read_bytes * 4 == plain[name].work.read_bytes
    assert shared["stage_0.send"].work.payload_bytes * 4 == plain["stage_0.send"].work.payload_bytes
    assert shared["layer_01.mlp_up"].work == plain["layer_01.mlp_up"].work


@pytest.mark.parametrize("shared", [False, True], ids=["all-reduce", "reduce-scatter"])
@pytest.mark.parametrize("chunks", [2, 4])
def test_free_collectives_leave_nothing_to_hide(ideal, stack, chunks, shared):
    """Parts of a matrix take together what it takes whole, so overlapping does not lose."""
    plan = {"tensor": 4, "sequence_parallel": shared}
    workload = {"batch_size": 1, "sequence_length": 8192}
    whole = simulate(ideal(), stack, plan, **workload).run.makespan_ps
    parts = simulate(ideal(), stack, {**plan, "overlap_chunks": chunks}, **workload).run.makespan_ps
    assert parts == pytest.approx(whole, abs=16 * 4 * chunks)


@pytest.mark.parametrize("chunks", [2, 4])
@pytest.mark.parametrize("bytes_per_s", [2e11, 1e12, 1e13])
def test_the_communication_of_a_part_hides_behind_the_next_part(ideal, stack, chunks, bytes_per_s):
    """Of each matrix m and all-reduce a in n parts, (n - 1) times the shorter of m/n and a/n is hidden."""
    workload = {"batch_size": 1, "sequence_length": 8192}
    whole = simulate(ideal(bytes_per_s), stack, {"tensor": 4}, **workload)
    parts = simulate(ideal(bytes_per_s), stack, {"tensor": 4, "overlap_chunks": chunks}, **workload)
    hidden = 0
    for matrix, reduction in (("output_proj", "attention_all_reduce"), ("mlp_down", "mlp_all_reduce")):
        (m,), (a,) = (np.subtract(*reversed(spans_of(whole, op))) for op in (matrix, reduction))
        hidden += 16 * (chunks - 1) * min(m, a) / chunks
    assert hidden > 0
    assert parts.run.makespan_ps == pytest.approx(whole.run.makespan_ps - hidden, abs=16 * 4 * chunks)


def test_parts_of_a_matrix_and_their_reductions_run_side_by_side(ideal, stack):
    """The second part is computed while the first is reduced; the residual waits for both."""
    result = simulate(ideal(1e12), stack, {"tensor": 4, "overlap_chunks": 2}, batch_size=1, sequence_length=8192)
    spans = {op: spans_of(result, op) for op in ("mlp_down.0", "mlp_down.1", "mlp_all_reduce.0", "mlp_all_reduce.1")}
    (begin,), (end,) = spans["mlp_down.1"]
    assert spans["mlp_all_reduce.0"][0] == (begin,)
    assert begin == spans["mlp_down.0"][1][0]
    assert spans["mlp_all_reduce.1"][0] == (max(end, spans["mlp_all_reduce.0"][1][0]),)
    assert spans_of(result, "mlp_residual")[0] == spans["mlp_all_reduce.1"][1]


@pytest.mark.parametrize("bytes_per_s", [1e9, 1e12, 1e30])
def test_a_ring_waits_for_keys_and_for_computation(ideal, stack, bytes_per_s):
    """A step starts when its keys have come and the step before is through; keys travel on without pause."""
    result = simulate(ideal(bytes_per_s), stack, {"context": 4}, batch_size=1, sequence_length=8192)
    (came,) = spans_of(result, "qkv_proj")[1]
    steps = [tuple(column[0] for column in spans_of(result, f"attention_{step}")) for step in range(4)]
    shifts = [tuple(column[0] for column in spans_of(result, f"kv_shift_{step}")) for step in (1, 2, 3)]
    assert steps[0][0] == shifts[0][0] == came
    for before, after in pairwise(shifts):
        assert after[0] == before[1]
    for step, shift in enumerate(shifts, start=1):
        assert steps[step][0] == max(steps[step - 1][1], shift[1])
    assert spans_of(result, "output_proj")[0][0] == steps[3][1]


def test_a_ring_with_free_links_takes_a_quarter_of_the_time(ideal, stack):
    """Tokens are shared evenly, and all that grows with them."""
    workload = {"batch_size": 1, "sequence_length": 8192}
    alone, ring = (simulate(ideal(), stack, {"context": context}, **workload) for context in (1, 4))
    assert ring.makespan_s * 4 == pytest.approx(alone.makespan_s, rel=0.02)
    flop = [sum(o.work.flop * len(o.devices) for o in result.dag) for result in (alone, ring)]
    assert flop[0] == flop[1]


@pytest.mark.parametrize("plan", [{"tensor": 2, "data": 2, "expert": 4}, {"tensor": 4, "expert": 2}], ids=str)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_an_imbalance_of_experts_raises_their_time_and_nothing_else(h100, families, plan, phase):
    """Others wait for the busiest device; FLOP, parameters and bytes on the wire count the mean."""
    model, workload = families["mixtral"], {"phase": phase, "batch_size": 512, "sequence_length": 64}
    even = simulate(h100, model, plan, **workload)
    last = even.makespan_s
    for imbalance in (1.5, 3.0):
        uneven = simulate(h100, model, plan, **workload, expert_imbalance=imbalance)
        assert uneven.makespan_s > last
        last = uneven.makespan_s
        frames = [result.operators.assign(layer=result.operators["layer"].fillna(-1)) for result in (even, uneven)]
        differs = frames[0]["seconds"] != frames[1]["seconds"]
        assert set(frames[0].loc[differs, "op"]) == {"experts"}
        assert (frames[1].loc[differs, "seconds"] > frames[0].loc[differs, "seconds"]).all()
        assert (frames[0]["flop"] == frames[1]["flop"]).all()
        for one, other in zip(even.dag, uneven.dag, strict=True):
            assert one.weight == other.weight
            if isinstance(one.work, Collective | ExpertExchange):
                assert one.work == other.work
        busy = [result.load_balance["busy_s"].sum() for result in (even, uneven)]
        spent = [(frame["seconds"] * frame["executions"]).sum() for frame in frames]
        assert busy[1] - busy[0] == pytest.approx(spent[1] - spent[0], rel=1e-4)


def test_a_tensor_group_that_spans_nodes_pays_for_it(h100, families):
    """Eight ranks of one node, four of each of two, or one of each of eight; 67 MB are reduced."""
    cluster = dataclasses.replace(h100, num_devices=64)
    found = []
    for order in (("tensor", "context", "data", "pipeline"), ("data", "tensor", "context", "pipeline")):
        plan = perfsim.Plan(tensor=8, data=2, rank_order=order)
        found.append(perfsim.Scenario(cluster, families["bare"], plan, perfsim.Workload(batch_size=128)))
    spans = [scenario.span(scenario.tensor_group(0, 0)) for scenario in found]
    assert spans == [(8,), (4, 2)]
    plan = perfsim.Plan(tensor=8, data=8, rank_order=("data", "tensor", "context", "pipeline"))
    found.append(perfsim.Scenario(cluster, families["bare"], plan, perfsim.Workload(batch_size=512)))
    assert found[2].span(found[2].tensor_group(0, 0)) == (1, 8)
    results = [perfsim.simulate(scenario) for scenario in found]
    makespans = [result.makespan_s for result in results]
    assert makespans == sorted(makespans)
    assert len(set(makespans)) == 3
    kernels = [result.operators[result.operators["kind"].isin(COMPUTE)]["seconds"].tolist() for result in results]
    assert kernels[0] == kernels[1] == kernels[2]


def test_the_order_of_ranks_says_which_hand_overs_stay_inside_of_a_node(h100, families):
    """Stages innermost: they hand over inside, and tensor groups reach across."""
    plans = {
        order[0]: perfsim.Plan(tensor=4, pipeline=4, microbatch_size=1, rank_order=order)
        for order in (("tensor", "context", "data", "pipeline"), ("pipeline", "tensor", "context", "data"))
    }
    workload = perfsim.Workload(batch_size=4)
    graphs = {
        name: perfsim.operator_graph(perfsim.Scenario(h100, families["bare"], plan, workload))
        for name, plan in plans.items()
    }
    sends = {name: [o.work.tier for o in graph if o.kind == "transfer"] for name, graph in graphs.items()}
    assert sends == {"tensor": [0, 1, 0], "pipeline": [0, 0, 0]}
    spans = {name: graph["layer_00.mlp_all_reduce"].work.span for name, graph in graphs.items()}
    assert spans == {"tensor": (4,), "pipeline": (2, 2)}


def test_experts_that_span_nodes_pay_for_it(h100, families):
    """Eight replicas that share eight experts, a device each: of one node, or two of each of four nodes."""
    cluster = dataclasses.replace(h100, num_devices=64)
    workload = perfsim.Workload(batch_size=64, sequence_length=256)
    seconds = {}
    for order in (("data", "tensor", "context", "pipeline"), ("pipeline", "data", "tensor", "context")):
        plan = perfsim.Plan(data=8, pipeline=4, expert=8, microbatch_size=8, rank_order=order)
        result = perfsim.simulate(perfsim.Scenario(cluster, families["mixtral"], plan, workload))
        frame = result.operators
        seconds[order[0]] = frame.loc[frame["op"] == "dispatch", "seconds"].iloc[0]
        assert result.dag.verify()["dimensions"].passed
    assert seconds["data"] < seconds["pipeline"]
