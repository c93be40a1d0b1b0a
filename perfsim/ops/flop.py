"""Matrix FLOP: of every device from the shapes of a graph, and of a workload in closed form from the model's sizes."""

from __future__ import annotations

from perfsim.ops.nodes import Dag, Operator
from perfsim.ops.operators import Quantity, attended_pairs
from perfsim.spec.model import Model
from perfsim.spec.workload import Workload

__all__ = ["closed_form_flop", "device_flop", "matrix_flop"]


def device_flop(graph: Dag) -> dict[int, float]:
    """Matrix FLOP of every device over the whole workload, counted from the shapes on the nodes.

    Parameters
    ----------
    graph : OperatorGraph

    Returns
    -------
    dict of int to float
    """
    flop: dict[int, float] = dict.fromkeys(range(graph.plan.num_devices), 0.0)
    for operator in graph:
        share = _flop_per_device(operator, graph)
        for device in operator.devices:
            flop[device] = flop.get(device, 0.0) + share
    return flop


def _flop_per_device(operator: Operator, graph: Dag) -> float:
    workload = graph.workload
    sequences = workload.batch_size // graph.plan.data
    if operator.kind == "matmul" and operator.inputs:
        rows = sequences * operator.inputs[0].shape[1]
        columns = sum(tensor.device_shape[-1] for tensor in operator.outputs)
        return 2.0 * rows * operator.inputs[0].device_shape[-1] * columns
    if operator.kind == "attention" and operator.inputs:
        pairs = attended_pairs(operator.inputs[0].shape[1], workload.sequence_length, causal=workload.causal)
        return 4.0 * sequences * operator.inputs[0].device_shape[-1] * pairs
    return 0.0


def closed_form_flop(model: Model, workload: Workload) -> float:
    """Matrix FLOP of a workload from the model's sizes alone: two a weight and token, four a pair and head channel.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved")
    >>> f"{closed_form_flop(scenario.model, scenario.workload):.4e}"
    '2.9073e+17'
    """
    return float(matrix_flop(model, workload, workload.batch_size, workload.sequence_length))


def matrix_flop(model: Model, workload: Workload, batch_size: Quantity, sequence_length: Quantity) -> Quantity:
    """Count as `closed_form_flop` does, with a batch and a sequence that may be arrays."""
    query = 1 if workload.phase == "decode" else sequence_length
    norms = 2 * model.hidden_size
    linear = 2 * batch_size * query * (model.parameters_per_layer - norms)
    pairs = attended_pairs(query, sequence_length, causal=workload.causal)
    attention = 4 * batch_size * model.num_attention_heads * model.head_size * pairs
    return model.num_hidden_layers * (linear + attention)
