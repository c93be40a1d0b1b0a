"""The operator graph: every operator of the deployment with its tensors, its devices and the edges between them.

It is complete: all layers are there, none is abbreviated. One node stands for one operator on all its devices; global
shapes are of the whole batch, device shapes of one device's share of one microbatch.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfsim import html
from perfsim.ops.checks import VerificationReport
from perfsim.ops.graph_json import dag_from_text, dag_to_text
from perfsim.ops.nodes import Dag
from perfsim.ops.verify import verify_graph
from perfsim.units import format_count, ranges

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["OperatorGraph"]


@dataclass(frozen=True, repr=False)
class OperatorGraph(Dag):
    """The DAG of a deployment.

    Attributes
    ----------
    operators : tuple of Operator
        In an order in which producers stand before their consumers.
    edges : tuple of Edge
    model : Model
    plan : Plan
        With the microbatch size and the layers of each stage filled in.
    workload : Workload
    """

    def __repr__(self) -> str:
        devices = {device for operator in self.operators for device in operator.devices}
        return f"OperatorGraph({len(self.operators)} operators, {len(self.edges)} edges, {len(devices)} devices)"

    def _repr_html_(self) -> str:
        kinds = Counter(operator.kind for operator in self.operators)
        facts = {
            "Model": self.model,
            "Plan": self.plan.label,
            "Kinds": ", ".join(f"{n} {kind}" for kind, n in kinds.items()),
        }
        rows = [self._stage_row(stage) for stage in dict.fromkeys(operator.stage for operator in self.operators)]
        return html.card(
            self, html.facts(facts), html.table(("Stage", "layers", "GPUs", "operators", "parameters a GPU"), rows)
        )

    def _stage_row(self, stage: int) -> tuple[str, ...]:
        """What a stage holds, for people."""
        mine = [operator for operator in self.operators if operator.stage == stage]
        layers = {operator.layer for operator in mine if operator.layer is not None}
        devices = {device for operator in mine for device in operator.devices}
        held = sum(operator.weight.device_count for operator in mine if operator.weight is not None)
        return str(stage), ranges(layers), ranges(devices), str(len(mine)), format_count(held)

    def verify(self) -> VerificationReport:
        """Compute the five checks of `perfsim.ops.verify.verify_graph` on this graph."""
        return verify_graph(self)

    def to_networkx(self) -> nx.MultiDiGraph:
        """Give the graph as a networkx graph, with the fields of operators and edges as attributes.

        Returns
        -------
        networkx.MultiDiGraph
            Nodes carry ``op``, ``kind``, ``stage``, ``layer``, ``devices``, ``inputs``, ``outputs``, ``work`` and
            ``weight``; edges carry ``tensor``, ``output`` and ``input``.

        Examples
        --------
        >>> import perfsim
        >>> graph = perfsim.operator_graph(perfsim.load_scenario("seed-improved")).to_networkx()
        >>> graph.nodes["layer_03.qkv_proj"]["devices"]
        (0, 1, 2, 3, 4, 5, 6, 7)
        """
        import networkx as nx

        graph = nx.MultiDiGraph()
        for operator in self.operators:
            fields = {f.name: getattr(operator, f.name) for f in dataclasses.fields(operator) if f.name != "name"}
            graph.add_node(operator.name, **fields)
        for edge in self.edges:
            tensor = self[edge.producer].outputs[edge.output]
            graph.add_edge(edge.producer, edge.consumer, tensor=tensor, output=edge.output, input=edge.input)
        return graph

    def to_json(self) -> str:
        """Write the graph as JSON; `from_json` reads it back to an equal graph.

        Raises
        ------
        InputError
            The graph stands for many sizes at once.

        Examples
        --------
        >>> import perfsim
        >>> graph = perfsim.operator_graph(perfsim.load_scenario("seed-improved"))
        >>> perfsim.OperatorGraph.from_json(graph.to_json()) == graph
        True
        """
        return dag_to_text(self)

    @classmethod
    def from_json(cls, text: str) -> OperatorGraph:
        """Read a graph that `to_json` wrote.

        Raises
        ------
        InputError
            The text is not such a graph.
        """
        dag = dag_from_text(text)
        return cls(**{field.name: getattr(dag, field.name) for field in dataclasses.fields(dag)})
