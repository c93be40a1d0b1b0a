"""All services of one scenario: they share the tables of its costs, which take far longer to fill than a run takes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from perfsim.serving.deployment import Deployment
from perfsim.serving.policies import Engine
from perfsim.serving.run import Service
from perfsim.serving.scenario_costs import ScenarioCosts, kv_blocks_of
from perfsim.spec.scenario import Scenario

if TYPE_CHECKING:
    from perfsim.serving.tables import StepTables

__all__ = ["Services"]


class Services:
    """Make services of a scenario.

    Parameters
    ----------
    scenario : Scenario

    Raises
    ------
    InputError
        The plan has context ranks or virtual stages.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.Scenario(
    ...     perfsim.load_cluster("dgx-h100"), perfsim.load_model("llama-3.1-8b"), perfsim.Plan(data=2),
    ...     perfsim.Workload(batch_size=2))
    >>> services = Services(scenario)
    >>> one, other = services.of(Engine("vllm")), services.of(Engine("trtllm"))
    >>> one.tables is other.tables, one.deployment.replicas
    (True, 2)
    """

    def __init__(self, scenario: Scenario) -> None:
        self.costs = ScenarioCosts(scenario)
        self._tables: dict[tuple[int, float], StepTables] = {}
        self._blocks: dict[tuple[int, int], int] = {}

    def of(self, engine: Engine, deployment: Deployment | None = None) -> Service:
        """Make a service whose pools are all alike.

        Parameters
        ----------
        engine : Engine
            Where it leaves `kv_blocks` out, they are what fits.
        deployment : Deployment, optional
            As many replicas as the plan has when left out.

        Raises
        ------
        InputError
            Not a single block of KV cache fits.
        """
        from perfsim.serving.tables import StepTables

        deployment = deployment or self.deployment
        fits_memory = engine.kv_blocks is None
        if fits_memory:
            engine = dataclasses.replace(engine, kv_blocks=self.kv_blocks(engine))
        pools, share = deployment.pools, engine.host.elementwise_share
        if (pools, share) not in self._tables:
            costs = dataclasses.replace(self.costs, elementwise_share=share)
            self._tables[pools, share] = StepTables(*[costs] * pools)
        return Service(self._tables[pools, share], (engine,) * pools, deployment, fits_memory)

    @property
    def deployment(self) -> Deployment:
        """The replicas of the plan; those that share experts step together as one."""
        return Deployment(replicas=1 if self.costs.ranks_in_step > 1 else self.costs.scenario.plan.data)

    def kv_blocks(self, engine: Engine) -> int:
        """Count the blocks of KV cache that fit beside weights and the activations of the engine's full step."""
        ready = engine.resolved
        budget = min(ready.token_budget or 1, self.costs.max_context_tokens)
        key = budget, ready.kv_block_tokens or 1
        if key not in self._blocks:
            self._blocks[key] = kv_blocks_of(self.costs.scenario, *key) * self.costs.ranks_in_step
        return self._blocks[key]
