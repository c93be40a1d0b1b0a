"""Verification of any graph of operators: perfsim's own, or what somebody else has drawn."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfsim.errors import InputError
from perfsim.ops.checks import BALANCE_TOLERANCE, Check, VerificationReport, check_of
from perfsim.ops.foreign.balance import FLOP, Loads, balance_findings, loads_of
from perfsim.ops.foreign.dimensions import dimension_findings
from perfsim.ops.foreign.drawing import Drawing, Finding
from perfsim.ops.foreign.flow import connection_findings, cycle_findings
from perfsim.ops.foreign.reading import drawing_of_dot, drawing_of_networkx
from perfsim.ops.foreign.structure import Parts, parts_of, structure_findings
from perfsim.ops.graph import OperatorGraph

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["verify"]

_SHOWN = 80
"""Characters of a path that are shown: its end, which says most."""
_WAY_OUT = "give DOT text, the JSON of an OperatorGraph, the path of either, an OperatorGraph, or a networkx.DiGraph"


def verify(source: str | Path | OperatorGraph | nx.DiGraph) -> VerificationReport:
    r"""Say which of the five claims of a deployment's graph hold, which do not, and which cannot be told.

    An `OperatorGraph` knows its model, plan and workload, and is held against them. A drawing has only the words and
    shapes of its labels, such as ``QKV Linear\nInput: [batch_size=8, seq_len=S, hidden=64]\nOutput: [batch_size=8,
    seq_len=S, heads=4, d_k=16]\nGPU: 0-3``: what does not follow from them cannot be told, and the report says why.
    How GPUs share a tensor is inferred: column-parallel matrices take whole vectors, row-parallel ones take shards and
    give partial sums, which an all-reduce completes (Shoeybi et al., Megatron-LM, 2019, section 3).

    Parameters
    ----------
    source : str, Path, OperatorGraph or networkx.DiGraph
        DOT text or the JSON of an `OperatorGraph`; a path of either; or a graph. Nodes of a networkx graph have a
        ``label``, or what `OperatorGraph.to_networkx` gives them.

    Returns
    -------
    VerificationReport
        The checks ``acyclic``, ``connected``, ``dimensions``, ``balance`` and ``structure``; see ``docs/verify.md``.

    Raises
    ------
    InputError
        There is no such file, or it has no directed graph whose labels have ``Input: [...]`` or ``Output: [...]``.

    Examples
    --------
    >>> import perfsim
    >>> shape = "[batch=8, seq=128, hidden=64]"
    >>> report = perfsim.verify(rf'''digraph {{
    ...     input [label="Input\nOutput: {shape}\nGPU: 0-3"]
    ...     sum [label="All-Reduce\nInput: {shape}\nOutput: [batch=8, seq=128, hidden=32]\nGPU: 0-3"]
    ...     input -> sum -> input
    ... }}''')
    >>> report["acyclic"].faults
    ('cycle: input -> sum -> input',)
    >>> report.passed, report["balance"].verdict
    (False, 'cannot be told')
    """
    if isinstance(source, OperatorGraph):
        return source.verify()
    if isinstance(source, str | Path):
        return _verify_text(source)
    if callable(getattr(source, "is_directed", None)) and hasattr(source, "nodes") and hasattr(source, "edges"):
        return verify_drawing(drawing_of_networkx(source))
    raise InputError.of("source", source, "must be a graph of operators", _WAY_OUT)


def _verify_text(source: str | Path) -> VerificationReport:
    """Verify a text, or the file to which a path leads."""
    if not str(source).strip():
        raise InputError.of("source", source, "is empty", _WAY_OUT)
    is_text = isinstance(source, str) and ("{" in source or "\n" in source)
    text = str(source) if is_text else _read(Path(source))
    if text.lstrip().startswith("{"):
        return OperatorGraph.from_json(text).verify()
    return verify_drawing(drawing_of_dot(text, "source" if is_text else str(source)))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        shown = str(path) if len(str(path)) <= _SHOWN else f"...{str(path)[-_SHOWN:]}"
        raise InputError.of("source", shown, f"cannot be read ({reason})", _WAY_OUT) from error


def verify_drawing(drawing: Drawing) -> VerificationReport:
    """Judge a drawing by its labels."""
    loads, parts = loads_of(drawing), parts_of(drawing)
    nodes, edges = f"{len(drawing.nodes)} nodes", f"{len(drawing.edges)} edges"
    cycles = list(cycle_findings(drawing))
    return VerificationReport(
        (
            _check("acyclic", f"{nodes}, {edges}, {'a' if cycles else 'no'} cycle", cycles),
            _check("connected", f"{nodes} between model input and model output", connection_findings(drawing)),
            _check("dimensions", _dimensions_text(drawing), dimension_findings(drawing)),
            _check("balance", _balance_text(drawing, loads), balance_findings(drawing, loads)),
            _check("structure", _structure_text(parts), structure_findings(drawing, parts)),
        )
    )


def _check(name: str, evidence: str, findings: Iterable[Finding]) -> Check:
    found = list(dict.fromkeys(findings))
    faults, gaps = ([text for is_fault, text in found if is_fault is wanted] for wanted in (True, False))
    return check_of(name, evidence, faults, gaps)


def _dimensions_text(drawing: Drawing) -> str:
    labelled = sum(bool(node.takes and node.gives) for node in drawing)
    said = f"{labelled} of {len(drawing.nodes)} nodes say what they take and give"
    return f"shapes compared along {len(drawing.edges)} edges; {said}"


def _balance_text(drawing: Drawing, loads: Loads) -> str:
    devices = drawing.devices
    if not devices:
        return "no GPUs are named"
    operators = [sum(device in (drawing.devices_of(node) or ()) for node in drawing) for device in devices]
    spread = f"{min(operators)} to {max(operators)}" if min(operators) != max(operators) else str(operators[0])
    text = f"{spread} nodes a GPU over {len(devices)} GPUs"
    load = loads.get(FLOP)
    if load:
        mean: Any = sum(load.values()) / len(devices)
        text = f"max/mean FLOP per GPU {max(load.values()) / mean:.4f} (tolerance {1 + BALANCE_TOLERANCE:g}); {text}"
    return text


def _structure_text(parts: Parts) -> str:
    if not parts:
        return "no layers are named"
    sizes = sorted({found.total() for found in parts.values()})
    spread = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
    layers = f"{len(parts)} layer{'s' if len(parts) > 1 else ''} of {spread} operator{'' if sizes == [1] else 's'}"
    return f"{layers}; a drawing has no parameters to compare"
