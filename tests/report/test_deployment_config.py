"""The configuration file of a deployment: placement, dimensions, and what the simulation found."""

import json

import pytest

import perfsim
from perfsim.report.deployment import deployment_config
from perfsim.spec.files import scenario_from_table


def config_of(result):
    """Gather the configuration of a result and send it through JSON."""
    config = deployment_config(
        result.run,
        summary=result.summary,
        load_balance=result.load_balance,
        memory=result.memory,
        findings=result.memory_findings,
        version="1.2.3",
    )
    return json.loads(json.dumps(config, allow_nan=False))


@pytest.fixture(scope="module")
def config(improved_result):
    """Give the configuration of the improved seed plan."""
    return config_of(improved_result)


def test_gpus_are_allocated_by_stage(config):
    """Eight GPUs with eight layers, twice."""
    assert config["gpu_allocation"] == {
        "stage_0": {"gpus": list(range(8)), "layers": list(range(8))},
        "stage_1": {"gpus": list(range(8, 16)), "layers": list(range(8, 16))},
    }
    assert config["strategy"] == {
        "total_gpus": 16,
        "tensor_parallel": 8,
        "pipeline_stages": 2,
        "data_parallel": 1,
        "microbatch_size": 1,
        "microbatches": 1024,
        "schedule": "pipelined",
    }


def test_tensor_parallel_operations_are_those_of_a_layer(config):
    """Column, row, heads, shards and all-reduces, with what one GPU holds."""
    operations = config["tensor_parallel_operations"]
    assert {op: table["parallelism"] for op, table in operations.items()} == {
        "attention_norm": "replicated",
        "qkv_proj": "column parallel",
        "attention": "parallel over heads",
        "output_proj": "row parallel",
        "attention_all_reduce": "all-reduce within the tensor group",
        "attention_residual": "replicated",
        "mlp_norm": "replicated",
        "mlp_up": "column parallel",
        "gelu": "parallel over shards",
        "mlp_down": "row parallel",
        "mlp_all_reduce": "all-reduce within the tensor group",
        "mlp_residual": "replicated",
    }
    assert operations["qkv_proj"]["output"] == {name: [1, 10_000, 1024] for name in "qkv"}
    assert operations["mlp_up"]["weight_parameters_per_gpu"] * 8 == 8192 * 32768
    assert all(table["gpus_per_group"] == 8 for table in operations.values())


def test_dimensions_are_the_seeds(config):
    """Two heads of 512 on each GPU; output is input."""
    dimensions = config["dimensions"]
    assert (dimensions["heads_per_gpu"], dimensions["head_dim"], dimensions["num_heads"]) == (2, 512, 16)
    assert dimensions["model_input"] == dimensions["model_output"] == [1024, 10_000, 8192]
    assert dimensions["parameters"] == 12_885_164_032
    assert (dimensions["ffn_hidden_size"], dimensions["layers"], dimensions["hidden_size"]) == (32768, 16, 8192)


def test_performance_load_balance_and_memory_are_the_simulated(config, improved_result):
    """The numbers of the result, not others; one record a GPU."""
    assert config["performance"] == improved_result.summary.to_dict()
    for name, frame, records in (
        ("load_balance", improved_result.load_balance, config["load_balance"]),
        ("memory", improved_result.memory, config["memory"]["per_gpu"]),
    ):
        assert [record.pop("device") for record in records] == list(range(16)), name
        assert records == [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)]
    assert config["memory"]["findings"] == list(improved_result.memory_findings)
    assert config["made_by"] == "perfsim 1.2.3"


def test_the_verification_has_five_checks_with_evidence(config):
    """All pass for the seed."""
    assert [check["check"] for check in config["verification"]] == [
        *["acyclic", "connected", "dimensions", "balance", "structure"]
    ]
    assert all(check["passed"] and check["evidence"] and not check["faults"] for check in config["verification"])


def test_the_scenario_can_be_made_again(config, improved):
    """With every number of its cluster."""
    assert scenario_from_table(config["scenario"]) == improved


def test_a_failed_check_is_told(improved):
    """With its faults."""
    config = config_of(perfsim.simulate(improved.with_(batch_size=4, layers_per_stage=(10, 6))))
    balance = next(check for check in config["verification"] if check["check"] == "balance")
    assert not balance["passed"]
    assert balance["faults"]


def test_without_tensor_parallelism_nothing_is_reduced(results):
    """The layer-wise plan: a stage a GPU, whole heads, no all-reduce."""
    config = config_of(results["seed-layerwise-pipelined"])
    assert config["gpu_allocation"]["stage_15"] == {"gpus": [15], "layers": [15]}
    assert not any(op.endswith("all_reduce") for op in config["tensor_parallel_operations"])
    assert config["dimensions"]["heads_per_gpu"] == 16
