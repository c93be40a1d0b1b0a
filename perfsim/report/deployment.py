"""The configuration file of a deployment: where everything runs, how it is cut up, and what the simulation found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perfsim.ops.nodes import Operator
from perfsim.ops.slots import REPLICATED, SEQUENCE, SHARDED
from perfsim.report.lanes import Run
from perfsim.spec.files import scenario_to_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["deployment_config"]

FORMAT = 1


def deployment_config(
    run: Run,
    *,
    summary: pd.Series,
    load_balance: pd.DataFrame,
    memory: pd.DataFrame,
    findings: tuple[str, ...],
    version: str,
) -> dict[str, Any]:
    """Gather everything about a deployment in one table of plain values.

    Parameters
    ----------
    run : Run
    summary : Series
    load_balance, memory : DataFrame
    findings : tuple of str
        About memory.
    version : str
        Of perfsim.

    Returns
    -------
    dict
        ``gpu_allocation``, ``tensor_parallel_operations``, ``dimensions``, ``performance``, ``load_balance``,
        ``memory``, ``verification``, and the whole ``scenario``, from which everything can be made again.
    """
    scenario, graph = run.program.scenario, run.program.graphs[0]
    plan, model, workload = scenario.plan, scenario.model, scenario.workload
    report = graph.verify()
    return {
        "format": FORMAT,
        "made_by": f"perfsim {version}",
        "strategy": {
            "total_gpus": plan.num_devices,
            "tensor_parallel": plan.tensor,
            "pipeline_stages": plan.pipeline,
            "data_parallel": plan.data,
            "microbatch_size": scenario.microbatch_size,
            "microbatches": scenario.num_microbatches,
            "schedule": plan.schedule,
        },
        "gpu_allocation": {
            f"stage_{stage}": {
                "gpus": list(scenario.stage_devices(stage)),
                "layers": [
                    layer
                    for index in range(stage, plan.num_passes, plan.pipeline)
                    for layer in scenario.stage_layers(index)
                ],
            }
            for stage in range(plan.pipeline)
        },
        "tensor_parallel_operations": {
            operator.op: _operation(operator, plan.tensor) for operator in graph if operator.layer == 0
        },
        "dimensions": {
            "batch_size": workload.batch_size,
            "sequence_length": workload.sequence_length,
            "hidden_size": model.hidden_size,
            "num_heads": model.num_attention_heads,
            "head_dim": model.head_size,
            "heads_per_gpu": model.num_attention_heads // plan.tensor,
            "ffn_hidden_size": model.intermediate_size,
            "layers": model.num_hidden_layers,
            "parameters": model.num_parameters,
            "model_input": list(graph["input"].outputs[0].shape),
            "model_output": list(graph["output"].inputs[0].shape),
        },
        "performance": {key: _plain(value) for key, value in summary.items()},
        "load_balance": _records(load_balance),
        "memory": {"per_gpu": _records(memory), "findings": list(findings)},
        "verification": [
            {"check": c.name, "claim": c.claim, "passed": c.passed, "evidence": c.evidence, "faults": list(c.faults)}
            for c in report.checks
        ],
        "scenario": scenario_to_table(scenario),
    }


def _operation(operator: Operator, tensor: int) -> dict[str, Any]:
    """How tensor ranks share one operator of a layer."""
    table: dict[str, Any] = {
        "parallelism": _parallelism(operator),
        "gpus_per_group": tensor,
        "input": {tensor_.name: list(tensor_.device_shape) for tensor_ in operator.inputs},
        "output": {tensor_.name: list(tensor_.device_shape) for tensor_ in operator.outputs},
    }
    if operator.weight is not None:
        table["weight"] = list(operator.weight.shape)
        table["weight_parameters_per_gpu"] = operator.weight.device_count
    return table


def _parallelism(operator: Operator) -> str:
    if operator.kind == "matmul" and operator.weight is not None:
        axis = operator.weight.shard_axis
        return "whole on each GPU" if axis is None else "column parallel" if axis == 1 else "row parallel"
    if operator.kind == "attention":
        return "parallel over heads"
    if operator.kind == "collective":
        return f"{getattr(operator.work, 'op', '').replace('_', '-')} within the {operator.group} group"
    if operator.kind == "experts":
        return "parallel over experts"
    shared = {REPLICATED: "replicated", SHARDED: "parallel over shards", SEQUENCE: "parallel over tokens"}
    return shared.get(operator.outputs[0].placement, "partial sums")


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{key: _plain(value) for key, value in row.items()} for row in frame.reset_index().to_dict("records")]


def _plain(value: Any) -> Any:
    """A Python value in place of NumPy's."""
    return value.item() if hasattr(value, "item") else value
