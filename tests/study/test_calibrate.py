"""`perfsim.calibrate`: a changed device is found again, the prior stays where data are silent, and faults are named."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import perfsim
from perfsim.errors import InputError

ATTENTION = {"num_heads": 32, "num_kv_heads": 8, "head_dim": 128}
EXPERTS = {"hidden_size": 4096.0, "expert_width": 1536.0, "experts_per_token": 4.0}


@pytest.fixture(scope="module")
def cluster():
    """Give a node with coefficients."""
    return perfsim.load_cluster("dgx-h100")


def matmuls(cluster, factor=1.0, rows=32):
    """Measure a device that takes `factor` times as long as the coefficients say."""
    generator = np.random.default_rng(1)
    sizes = {name: 2.0 ** generator.integers(low, 14, rows) for name, low in (("m", 3), ("n", 9), ("k", 9))}
    seconds = factor * perfsim.cost.matmul_seconds(cluster, **sizes)
    return pd.DataFrame({"operator": "matmul", **sizes, "latency_s": seconds})


def decodes(cluster, factor=1.0):
    """The same of decode attention."""
    sizes = {"batch": np.repeat([1, 8, 64], 4), "context_tokens": np.tile([512, 2048, 8192, 32768], 3)}
    seconds = factor * perfsim.cost.attention_seconds(cluster, query_tokens=1, **sizes, **ATTENTION)
    return pd.DataFrame({"operator": "decode", **sizes, **ATTENTION, "latency_s": seconds})


def reductions(cluster, factor=1.0, kind="all_reduce"):
    """The same of collectives."""
    payload = 2.0 ** np.arange(12, 29)
    seconds = factor * perfsim.cost.collective_seconds(cluster, kind=kind, payload_bytes=payload, group_size=8)
    return pd.DataFrame({"operator": kind, "payload_bytes": payload, "group_size": 8, "latency_s": seconds})


def mixtures(cluster, factor=1.0):
    """The same of the experts of a layer."""
    tokens, experts = 2.0 ** np.arange(13), np.repeat([8, 64], 13)
    rows = pd.DataFrame({"tokens": np.tile(tokens, 2), **EXPERTS, "num_experts": experts})
    return rows.assign(operator="experts", latency_s=factor * expert_seconds(cluster, rows))


def expert_seconds(cluster, rows):
    """Price rows of experts, of which a call has one number."""
    seconds = np.empty(len(rows))
    for count, index in rows.groupby("num_experts").indices.items():
        sizes = {name: rows[name].to_numpy(float)[index] for name in ("tokens", *EXPERTS)}
        seconds[index] = perfsim.cost.experts_seconds(cluster, num_experts=int(count), **sizes)
    return seconds


def norms(cluster, factor=1.0):
    """The same of a norm, whose published times have no gap of a CUDA graph inside, as measurements do."""
    sizes = {"read_bytes": 2.0 ** np.arange(12, 28), "written_bytes": 2.0 ** np.arange(12, 28)}
    seconds = factor * perfsim.cost.elementwise_seconds(cluster, op="rmsnorm", **sizes)
    return pd.DataFrame({"operator": "elementwise", "op": "rmsnorm", **sizes, "latency_s": seconds})


def mape(cluster, rows):
    """Judge a cluster by rows of one operator."""
    operator = rows["operator"].iloc[0]
    if operator == "experts":
        return float((expert_seconds(cluster, rows) / rows["latency_s"] - 1).abs().mean())
    if operator == "elementwise":
        sizes = {name: rows[name] for name in ("read_bytes", "written_bytes")}
        seconds = perfsim.cost.elementwise_seconds(cluster, op=rows["op"].iloc[0], **sizes)
        return float((seconds / rows["latency_s"] - 1).abs().mean())
    if operator == "matmul":
        seconds = perfsim.cost.matmul_seconds(cluster, m=rows["m"], n=rows["n"], k=rows["k"])
    elif operator == "decode":
        sizes = {name: rows[name] for name in ("batch", "context_tokens")}
        seconds = perfsim.cost.attention_seconds(cluster, query_tokens=1, **sizes, **ATTENTION)
    else:
        payload = rows["payload_bytes"]
        seconds = perfsim.cost.collective_seconds(cluster, kind=operator, payload_bytes=payload, group_size=8)
    return float((seconds / rows["latency_s"] - 1).abs().mean())


@pytest.mark.parametrize("measure", [matmuls, decodes, reductions, mixtures])
def test_finds_a_slower_device(cluster, measure):
    """A quarter more of everything is found, by the operator that was measured."""
    rows = measure(cluster, 1.25)
    mine = perfsim.calibrate(cluster, rows, data="rows of this test")
    assert mape(cluster, rows) == pytest.approx(0.2)
    assert mape(mine, rows) < 0.06
    (changed,) = [key for key, table in mine.coefficients.items() if table != cluster.coefficients[key]]
    table = mine.coefficients[changed]
    assert table["source"] == "calibrated"
    assert table["fit"]["data"] == "rows of this test"
    assert table["fit"]["rows_used"] == len(rows)


def test_finds_slower_streams(cluster):
    """A class of memory-bound kernels; the others stay, and so do those of other devices' clusters."""
    rows = norms(cluster, 1.25)
    mine = perfsim.calibrate(cluster, rows, data="rows of this test")
    assert mape(mine, rows) < 0.02 < mape(cluster, rows)
    before, after = (one.coefficients["memory_bound"] for one in (cluster, mine))
    assert [name for name in before if before[name] != after[name]] == ["norm"]
    assert after["norm"]["includes_gap"] is True
    about = {"data": "rows of this test", "rows_used": len(rows)}
    assert about.items() <= after["norm"]["fit"].items()
    assert "l2_speedup" in after["norm"]["fit"]["undetermined"]


def test_several_kinds_of_streams_are_several_fits(cluster):
    """A norm by its rows, an addition by its own."""
    rows = pd.concat([norms(cluster, 1.3), norms(cluster).assign(op="add")])
    changed = perfsim.calibrate(cluster, rows).coefficients["memory_bound"]
    assert changed["norm"] != changed["add"]
    assert changed["norm"]["fit"]["rows_used"] == changed["add"]["fit"]["rows_used"] == 16


def test_experts_in_fp8_get_a_table_of_their_own():
    """And no other table changes."""
    cluster = perfsim.load_cluster("dgx-h100", kernels="sglang")
    rows = mixtures(cluster).assign(dtype="fp8", latency_s=lambda table: table["latency_s"] * 0.8)
    mine = perfsim.calibrate(cluster, rows)
    changed = {name for name, table in mine.coefficients.items() if table != cluster.coefficients.get(name)}
    assert changed == {"grouped_matmul.fp8"}
    assert perfsim.cost.experts_seconds(mine, num_experts=8, tokens=64, **EXPERTS, dtype="fp8") > 0


def test_block_scales_are_a_dtype_of_products_only(cluster):
    """Not of attention."""
    rows = matmuls(cluster).assign(dtype="fp8_block")
    assert "matmul.fp8_block" in perfsim.calibrate(cluster, rows).coefficients
    with pytest.raises(InputError, match="multiplies in"):
        perfsim.calibrate(cluster, decodes(cluster).assign(dtype="fp8_block"))


def test_judges_rows_that_it_has_not_seen(cluster):
    """What was learnt holds for other sizes."""
    rows = matmuls(cluster, 1.25, rows=80)
    mine = perfsim.calibrate(cluster, rows[:40])
    assert mape(mine, rows[40:]) < 0.1 < mape(cluster, rows[40:])


def test_one_row_moves_little_and_says_so(cluster):
    """One row determines next to nothing."""
    mine = perfsim.calibrate(cluster, matmuls(cluster, rows=1))
    before, after = cluster.coefficients["matmul.bf16"], mine.coefficients["matmul.bf16"]
    assert after["fit"]["rows_used"] == 1
    assert {"l2_bytes_per_clock", "split_s", "throttling"} <= set(after["fit"]["undetermined"])
    assert after["split_s"] == pytest.approx(before["split_s"], rel=0.1)


def test_equal_rows_are_one_point(cluster):
    """Repeated rows do not determine more coefficients than one."""
    rows = pd.concat([matmuls(cluster, 1.1, rows=1)] * 40)
    assert "split_s" in perfsim.calibrate(cluster, rows).coefficients["matmul.bf16"]["fit"]["undetermined"]


def test_fits_several_operators_and_leaves_the_rest(cluster):
    """Each operator is fitted to its own rows."""
    rows = pd.concat([matmuls(cluster, 1.2), reductions(cluster, 1.2, "all_gather")])  # cells of the others are empty
    mine = perfsim.calibrate(cluster, rows)
    changed = {key for key, table in mine.coefficients.items() if table != cluster.coefficients[key]}
    assert changed == {"matmul.bf16", "all_gather"}


def test_keeps_the_range_of_the_prior(cluster):
    """Errors on the fitted rows would promise too much."""
    mine = perfsim.calibrate(cluster, matmuls(cluster, 1.1))
    errors = [one.coefficients["matmul.bf16"]["fit"]["errors"] for one in (cluster, mine)]
    assert errors[0] == errors[1]


def test_starts_from_nothing(cluster):
    """A device without coefficients gets some."""
    bare = dataclasses.replace(cluster, kernels="", coefficients={})
    rows = matmuls(cluster)
    mine = perfsim.calibrate(bare, rows)
    assert mine.coefficients["matmul.bf16"]["fit"]["prior"] == "no coefficients"
    assert mape(mine, rows) < 0.1 < mape(bare, rows)


def test_names_all_faults_together(cluster):
    """One error tells all."""
    rows = pd.concat([matmuls(cluster).drop(columns="k"), reductions(cluster).assign(group_size=64)])
    rows = pd.concat([rows, pd.DataFrame({"operator": ["matmull"], "latency_s": [1e-3]})])
    with pytest.raises(InputError) as caught:
        perfsim.calibrate(cluster, rows)
    fields = {fault.field.partition("[")[0] for fault in caught.value.faults}
    assert {"measurements.k", "measurements.operator", "measurements.group_size"} <= fields


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (lambda rows: rows.assign(latency_s=rows["latency_s"] * 1e-3), "latency_s", "speed of light"),
        (lambda rows: rows.assign(latency_s=rows["latency_s"] * 1e6), "latency_s", "microseconds"),
        (lambda rows: rows.assign(latency_s=np.nan), "latency_s", "above 0"),
        (lambda rows: rows.assign(m="many"), "m", "above 0"),
        (lambda rows: rows.assign(dtype="fp3"), "dtype", "multiplies in"),
        (lambda rows: rows.assign(in_l2="perhaps"), "in_l2", "true or false"),
        (lambda rows: rows.drop(columns="latency_s"), "latency_s", "is missing"),
        (lambda rows: rows[:0], "measurements", "at least one row"),
    ],
)
def test_refuses(cluster, change, field, words):
    """Every fault names its field and what to do."""
    with pytest.raises(InputError, match=words) as caught:
        perfsim.calibrate(cluster, change(matmuls(cluster)))
    assert field in caught.value.faults[0].field


def test_refuses_what_it_cannot_start_from(cluster):
    """Attention has no form without kernels."""
    bare = dataclasses.replace(cluster, kernels="", coefficients={})
    with pytest.raises(InputError, match="coefficients to start from"):
        perfsim.calibrate(bare, decodes(cluster))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"operator": "prefill", "batch": 1, "query_tokens": 64, "context_tokens": 32, **ATTENTION}, "query_tokens"),
        ({"operator": "decode", "batch": 1, "context_tokens": 0, **ATTENTION}, "above 0"),
        ({"operator": "decode", "batch": 1, "context_tokens": 64, **ATTENTION, "kv_dtype": "fp3"}, "must be one of"),
        ({"operator": "experts", "tokens": 8, "num_experts": 2, **EXPERTS}, "at most num_experts"),
        ({"operator": "experts", "tokens": 8, "num_experts": 8.5, **EXPERTS}, "whole number"),
        ({"operator": "experts", "tokens": 8, "num_experts": 8, **EXPERTS, "skew": -1.0}, "at least 0"),
        ({"operator": "experts", "tokens": 8, "num_experts": 8, **EXPERTS, "dtype": "fp4"}, "multiplies in"),
        ({"operator": "experts", "tokens": 10**6, "num_experts": 8, **EXPERTS}, "speed of light"),
        ({"operator": "elementwise", "read_bytes": 1e6, "written_bytes": 1e6}, "op"),
        ({"operator": "elementwise", "op": "rmsnrom", "read_bytes": 1e6, "written_bytes": 1e6}, "did you mean"),
        ({"operator": "elementwise", "op": "add", "read_bytes": 1e9, "written_bytes": 1e9}, "speed of light"),
        ({"operator": "all_reduce", "payload_bytes": 1e6, "group_size": 16}, "from 2 to 8"),
        ({"operator": "all_reduce", "payload_bytes": 1e9, "group_size": 8}, "speed of light"),
    ],
)
def test_refuses_rows_of_other_operators(cluster, row, words):
    """Each operator has its own limits."""
    with pytest.raises(InputError, match=words):
        perfsim.calibrate(cluster, pd.DataFrame([{**row, "latency_s": 1e-4}]))


@pytest.mark.parametrize("measure", [mixtures, norms])
def test_refuses_what_a_device_has_nothing_of(cluster, measure):
    """No fit of experts or streams starts from nothing."""
    bare = dataclasses.replace(cluster, kernels="", coefficients={})
    with pytest.raises(InputError, match="coefficients to start from"):
        perfsim.calibrate(bare, measure(cluster))


def test_refuses_a_cache_in_two_states(cluster):
    """One fit of attention has one state of L2."""
    rows = decodes(cluster).assign(in_l2=[True, False] * 6)
    with pytest.raises(InputError, match="must be the same"):
        perfsim.calibrate(cluster, rows)


def test_knows_hot_from_cold(cluster):
    """The same times mean a faster memory when the weight came from memory than when it was in L2."""
    rows = matmuls(cluster).assign(m=8.0, n=4096.0, k=4096.0)
    rows["latency_s"] = 2 * perfsim.cost.matmul_seconds(cluster, m=8, n=4096, k=4096, weights_in_l2=True)
    hot, cold = (perfsim.calibrate(cluster, rows.assign(in_l2=state)) for state in (True, False))
    hot_s, cold_s = (perfsim.cost.matmul_seconds(one, m=8, n=4096, k=4096) for one in (hot, cold))
    assert hot_s > 1.1 * cold_s


@pytest.mark.parametrize("dtype", ["fp16", "fp8"])
def test_fits_other_data_types(cluster, dtype):
    """fp16 runs the kernels of bf16; fp8 has a table of its own."""
    sizes = {"m": np.array([64.0, 1024.0, 8192.0]), "n": 8192.0, "k": 8192.0}
    seconds = 1.2 * perfsim.cost.matmul_seconds(cluster, **sizes, dtype=dtype)
    rows = pd.DataFrame({"operator": "matmul", **sizes, "dtype": dtype, "latency_s": seconds})
    mine = perfsim.calibrate(cluster, rows)
    assert perfsim.cost.matmul_seconds(mine, **sizes, dtype=dtype) == pytest.approx(seconds, rel=0.1)


def test_fits_the_engines_own_all_reduce(cluster):
    """Up to its limit it is another kernel than NCCL's."""
    payload = 2.0 ** np.arange(11, 19)
    given = {"kind": "all_reduce", "payload_bytes": payload, "group_size": 8, "algorithm": "custom"}
    seconds = 1.3 * perfsim.cost.collective_seconds(cluster, **given)
    rows = pd.DataFrame(
        {"operator": "custom_all_reduce", "payload_bytes": payload, "group_size": 8, "latency_s": seconds}
    )
    mine = perfsim.calibrate(cluster, rows)
    assert perfsim.cost.collective_seconds(mine, **given) == pytest.approx(seconds, rel=0.12)
    assert mine.coefficients["all_reduce"] == cluster.coefficients["all_reduce"]


def test_a_calibrated_cluster_runs(cluster, improved):
    """Its coefficients are hashed, priced and simulated like shipped ones."""
    mine = perfsim.calibrate(cluster, matmuls(cluster, 1.5))
    scenario = improved.with_(num_hidden_layers=2, batch_size=6)
    own = dataclasses.replace(mine, num_devices=scenario.cluster.num_devices)
    slow, usual = (perfsim.simulate(one) for one in (scenario.with_(cluster=own), scenario))
    assert slow.makespan_s > usual.makespan_s
