"""Operator graphs as JSON, both ways.

The types that the dataclasses declare say what a file may hold, so a new field or kind of work needs no line here.
Whether a well-formed graph makes sense is for `perfsim.ops.verify` to judge.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from perfsim.errors import Faults, InputError
from perfsim.ops.nodes import Dag, Edge, Operator
from perfsim.ops.operators import ELEMENT_BYTES
from perfsim.ops.slots import PARTIAL, REPLICATED, ROUTED, SEQUENCE, SHARDED
from perfsim.spec.model import Model
from perfsim.spec.plan import Plan
from perfsim.spec.tables import build, check_keys
from perfsim.spec.workload import Workload
from perfsim.units import DTYPE_BYTES

__all__ = ["dag_from_text", "dag_to_text"]

FORMAT = 1
_SPECS = {"model": Model, "plan": Plan, "workload": Workload}
_CHOICES = {
    "placement": (REPLICATED, SHARDED, PARTIAL, SEQUENCE, ROUTED),
    "dtype": ELEMENT_BYTES,
    "kv_dtype": DTYPE_BYTES,
}
"""Fields of operators and tensors of which only some texts mean anything: without them nothing has a size."""
_WAY_OUT = "give what to_json wrote"


def dag_to_text(graph: Dag) -> str:
    """Write a graph as JSON."""
    operators = []
    for operator in graph.operators:
        table = dataclasses.asdict(operator)
        table["work"] = {"kind": operator.work.kind, **table["work"]}
        operators.append(table)
    specs = {name: dataclasses.asdict(getattr(graph, name)) for name in _SPECS}
    edges = [dataclasses.asdict(edge) for edge in graph.edges]
    table = {"format": FORMAT, **specs, "operators": operators, "edges": edges}
    return json.dumps(table, indent=1, default=_plain_number)


def _plain_number(value: object) -> Any:
    """Give the number that a NumPy scalar holds; with arrays one graph stands for many, and none can be read back."""
    if isinstance(value, np.generic):
        return value.item()
    raise InputError.of("graph", value, "must have single sizes, not arrays of them", "write the graph of each size")


def dag_from_text(text: str) -> Dag:
    """Read the JSON of a graph; anything else is an `InputError` that lists what is wrong."""
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError.of("graph", text[:40], f"is not JSON ({error})", _WAY_OUT) from error
    if not isinstance(table, Mapping):
        raise InputError.of("graph", text[:40], "must be one JSON object", _WAY_OUT)
    faults = Faults("graph")
    check_keys(table, ("format", *_SPECS, "operators", "edges"), (), faults)
    faults.raise_if_any()
    if table["format"] != FORMAT:
        raise InputError.of("graph.format", table["format"], f"must be {FORMAT}, which this version reads", _WAY_OUT)
    specs: dict[str, Any] = {name: build(kind, table[name], faults.inside(name)) for name, kind in _SPECS.items()}
    operators = _read(tuple[Operator, ...], table["operators"], faults.inside("operators"))
    edges = _read(tuple[Edge, ...], table["edges"], faults.inside("edges"))
    faults.raise_if_any()
    return Dag(operators, edges, **specs)


def _read(kind: Any, value: Any, faults: Faults) -> Any:
    """Turn a JSON value into a declared type; one that is none is recorded, and what comes back is of no use."""
    if get_origin(kind) is UnionType:
        return _read_alternative(get_args(kind), value, faults)
    if get_origin(kind) is tuple:
        return _read_tuple(get_args(kind), value, faults)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, faults)
    if kind is int:
        faults.integer("", value, minimum=0)
    elif kind is bool:
        faults.flag("", value)
    elif kind is str:
        faults.text("", value)
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        faults.add("", value, "must be a finite number of at least 0")
    return value


def _read_tuple(kinds: tuple[Any, ...], value: Any, faults: Faults) -> Any:
    """Read a list of any length, which the type ends in ``...`` for, or of one item for each type."""
    wanted = None if kinds[-1] is ... else len(kinds)
    if not isinstance(value, list) or wanted not in {None, len(value)}:
        faults.add("", value, "must be a list" if wanted is None else f"must be a list of {wanted}")
        return None
    return tuple(_read(kinds[0], item, faults.inside(str(index))) for index, item in enumerate(value))


def _read_alternative(kinds: tuple[Any, ...], value: Any, faults: Faults) -> Any:
    """Read something or nothing; or one of several dataclasses, which the table names by its ``kind``."""
    if type(None) in kinds:
        return None if value is None else _read(kinds[0], value, faults)
    if not isinstance(value, Mapping):
        faults.add("", value, "must be a table of keys and values")
        return None
    table, named = dict(value), {kind.kind: kind for kind in kinds}
    name = table.pop("kind", None)
    return _read(named[name], table, faults) if faults.choice("kind", name, named) else None


def _read_dataclass(kind: Any, value: Any, faults: Faults) -> Any:
    if not isinstance(value, Mapping):
        faults.add("", value, "must be a table of keys and values")
        return None
    types, optional = _fields(kind)
    known = check_keys(value, [name for name in types if name not in optional], optional, faults)
    parts = {}
    for name in (name for name in types if name in value):
        if name in _CHOICES and not (value[name] is None and type(None) in get_args(types[name])):
            faults.choice(name, value[name], _CHOICES[name])
            parts[name] = value[name]
        else:
            parts[name] = _read(types[name], value[name], faults.inside(name))
    return kind(**parts) if known else None


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], list[str]]:
    """Give the type of each field, and the fields that may be left out; resolving types is slow."""
    fields, types = dataclasses.fields(kind), get_type_hints(kind)
    optional = [field.name for field in fields if field.default is not dataclasses.MISSING]
    return {field.name: types[field.name] for field in fields}, optional
