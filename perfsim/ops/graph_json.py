"""Operator graphs as JSON, both ways."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from perfsim.errors import Faults, InputError
from perfsim.ops.layers import Weight
from perfsim.ops.nodes import Dag, Edge, Operator, Tensor
from perfsim.ops.operators import Attention, Collective, Elementwise, MatMul, Nothing, Transfer
from perfsim.spec.model import Model
from perfsim.spec.plan import Plan
from perfsim.spec.tables import build, check_keys
from perfsim.spec.workload import Workload

__all__ = ["dag_from_text", "dag_to_table"]

FORMAT = 1
_WORKS = {kind.kind: kind for kind in (MatMul, Attention, Elementwise, Collective, Transfer, Nothing)}


def dag_to_table(graph: Dag) -> dict[str, Any]:
    """Give a graph as one table of plain values."""
    operators = []
    for operator in graph.operators:
        table = dataclasses.asdict(operator)
        table["work"] = {"kind": operator.work.kind, **table["work"]}
        operators.append(table)
    parts = {name: dataclasses.asdict(getattr(graph, name)) for name in ("model", "plan", "workload")}
    return {"format": FORMAT, **parts, "operators": operators, "edges": [dataclasses.asdict(e) for e in graph.edges]}


def dag_from_text(text: str) -> Dag:
    """Read the JSON of a graph; anything else is an `InputError` that lists what is wrong."""
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError.of("graph", text[:40], f"is not JSON ({error})", "give what to_json wrote") from error
    faults = Faults("graph")
    if not isinstance(table, Mapping):
        raise InputError.of("graph", text[:40], "must be one JSON object", "give what to_json wrote")
    check_keys(table, ("format", "model", "plan", "workload", "operators", "edges"), (), faults)
    faults.raise_if_any()
    model = build(Model, table["model"], Faults.nested(faults, "model"))
    plan = build(Plan, table["plan"], Faults.nested(faults, "plan"))
    workload = build(Workload, table["workload"], Faults.nested(faults, "workload"))
    operators = tuple(
        _operator(item, Faults.nested(faults, f"operators.{i}")) for i, item in enumerate(table["operators"])
    )
    edges = tuple(build(Edge, item, Faults.nested(faults, f"edges.{i}")) for i, item in enumerate(table["edges"]))
    faults.raise_if_any()
    return Dag(operators, edges, model, plan, workload)  # type: ignore[arg-type]


def _operator(table: Any, faults: Faults) -> Operator | None:
    if not isinstance(table, Mapping) or not isinstance(table.get("work"), Mapping):
        faults.add("work", table, "must be an operator with its work")
        return None
    work = dict(table["work"])
    kind = work.pop("kind", None)
    if not faults.choice("work.kind", kind, _WORKS):
        return None
    parts = {
        **table,
        "devices": tuple(table.get("devices", ())),
        "inputs": tuple(_tensor(tensor, faults) for tensor in table.get("inputs", ())),
        "outputs": tuple(_tensor(tensor, faults) for tensor in table.get("outputs", ())),
        "work": build(_WORKS[str(kind)], _tuples(work), faults),
        "weight": None if table.get("weight") is None else build(Weight, _tuples(table["weight"]), faults),
    }
    return build(Operator, parts, faults)


def _tensor(table: Any, faults: Faults) -> Tensor | None:
    return build(Tensor, _tuples(table), faults)


def _tuples(table: Any) -> Any:
    """JSON has lists where the dataclasses have tuples."""
    if not isinstance(table, Mapping):
        return table
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
