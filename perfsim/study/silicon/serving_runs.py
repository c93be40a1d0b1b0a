"""How a measured serving run is asked for: its scenario, its client, its scheduler and its engine's times.

All of this is fixed by what a row says of itself (model, device, library, version, protocol), by no measured value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from perfsim.serving.policies import Engine
from perfsim.serving.run import Service, run_service
from perfsim.serving.scenario_costs import ScenarioCosts, kv_blocks_of
from perfsim.serving.tables import StepTables
from perfsim.serving.traffic import Bursts, ClosedLoop
from perfsim.spec.model import Model, load_model
from perfsim.spec.plan import Plan
from perfsim.spec.profiles import load_cluster
from perfsim.spec.scenario import Scenario
from perfsim.spec.workload import Workload
from perfsim.study.silicon.systems import PROFILES, tables_folder

if TYPE_CHECKING:
    import pandas as pd

    from perfsim.serving.engine_times import EngineTimes

__all__ = ["BUNDLED", "EXPERT_SKEW", "TIMES", "ServingRun", "serving_runs", "times_of"]

EXPERT_SKEW = 0.6
"""How unlike experts are in use where a run does not say: the exponent that published routing statistics come near."""

BUNDLED = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "meta-llama/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
}
"""Models of the same shape whose configuration the public package has, for those that it has not."""

_NVFP4_CONFIGS = {"MiniMaxAI/MiniMax-M2.5": "nvidia/MiniMax-M2.5-NVFP4", "Qwen/Qwen3-32B": "nvidia/Qwen3-32B-NVFP4"}
_DEVICES = 8
_REQUESTS_OF_A_CLIENT = 10
_BATCH_WAIT_STEPS = 20


class TIMES:
    """Names of the engines' times, by library and version; see ``engine_times.toml``."""

    TRTLLM = "trtllm-2025-10"
    TRTLLM_RC3 = "trtllm-1.0rc3"
    TRTLLM_RC3_EXPERTS = "trtllm-1.0rc3-experts"
    VLLM_HOPPER = "vllm-2025-10-hopper"
    VLLM_BLACKWELL = "vllm-2025-10-blackwell"
    VLLM_16 = "vllm-0.16"
    VLLM = "vllm-0.18-0.19"
    SGLANG = "sglang-0.5.6"


def times_of(row: Any) -> str:
    """Which engine's times belong to a row: by its library, its version or date, and for old vLLM its device."""
    if row.library == "sglang":
        return TIMES.SGLANG
    if row.library == "trtllm":
        if row.version.startswith("1.0.0rc"):
            return TIMES.TRTLLM_RC3_EXPERTS if row.expert_dtype else TIMES.TRTLLM_RC3
        return TIMES.TRTLLM
    if row.version.startswith("0.16."):
        return TIMES.VLLM_16
    if row.version or row.measured_on >= "2026":
        return TIMES.VLLM
    return TIMES.VLLM_HOPPER if row.system.startswith(("h100", "h200")) else TIMES.VLLM_BLACKWELL


@dataclass(frozen=True, eq=False)
class ServingRun:
    """One measured run, ready to be simulated.

    Attributes
    ----------
    row : object
        With the columns of `read_serving_rows` as attributes.
    tables : StepTables
        Of its scenario; runs of the same one share them.
    engine : Engine
        Its times are those of `times_of`.
    traffic : ClosedLoop or Bursts
    """

    row: Any
    tables: StepTables
    engine: Engine
    traffic: ClosedLoop | Bursts

    def latencies(self, seeds: Iterable[int], times: EngineTimes | None = None) -> tuple[float, float]:
        """Mean TTFT and TPOT in seconds over requests and seeds, with other times of the engine if they are given."""
        from perfsim.serving.results import ServeResult

        engine = self.engine if times is None else dataclasses.replace(self.engine, times=times)
        service = Service(self.tables, (engine,))
        found = []
        for seed in seeds:
            requests = self._requests(seed)
            result = ServeResult(service, requests, run_service(service, requests))
            found.append((result.ttft_s, result.tpot_s))
        ttft_s, tpot_s = np.mean(found, axis=0).tolist()
        return ttft_s, tpot_s

    @cached_property
    def _drawn(self) -> dict[int, Any]:
        return {}

    def _requests(self, seed: int) -> Any:
        if seed not in self._drawn:
            self._drawn[seed] = dataclasses.replace(self.traffic, seed=seed).requests()
        return self._drawn[seed]


def serving_runs(rows: pd.DataFrame, times: Mapping[str, EngineTimes] | None = None) -> list[ServingRun]:
    """Make the runs of rows, in their order.

    Parameters
    ----------
    rows : DataFrame
        As `read_serving_rows` gives them.
    times : mapping of str to EngineTimes, optional
        Other times than the shipped ones, by their names.

    Raises
    ------
    InputError
        A model cannot be loaded or does not fit on its devices.
    """
    shared: dict[Any, tuple[StepTables, int]] = {}
    runs = []
    for row in rows.itertuples(index=False):
        name = times_of(row)
        engine = _engine(row, name if times is None else times[name])
        ready, share = engine.resolved, engine.host.elementwise_share
        scenario = _scenario(row)
        key = scenario, ready.token_budget, ready.kv_block_tokens, share
        if key not in shared:
            blocks = kv_blocks_of(scenario, ready.token_budget or 1, ready.kv_block_tokens or 1)
            shared[key] = StepTables(ScenarioCosts(scenario, share)), blocks
        tables, blocks = shared[key]
        runs.append(ServingRun(row, tables, dataclasses.replace(engine, kv_blocks=blocks), _traffic(row)))
    return runs


def _scenario(row: Any) -> Scenario:
    """The deployment of a run."""
    expert = row.tensor if row.model.startswith("MiniMaxAI/") and row.system == "b200_sxm" else row.expert
    quantised = row.precision in {"fp8", "fp4"} and row.library != "sglang"  # which keeps the cache in bf16 by default
    return Scenario(
        load_cluster(PROFILES[row.system], num_devices=_DEVICES, kernels=row.library), _model(row),
        Plan(tensor=row.tensor, expert=expert),
        Workload(kv_dtype="fp8" if quantised else None, expert_skew=EXPERT_SKEW),
    )  # fmt: skip


def _model(row: Any) -> Model:
    """The checkpoint of a run, with the quantisation that the row names."""
    path = _NVFP4_CONFIGS.get(row.model) if row.precision == "fp4" else None
    name = (path or BUNDLED.get(row.model, row.model)).replace("/", "--")
    model = load_model(tables_folder().parents[1] / "model_configs" / f"{name}_config.json")
    if model.num_experts or path:
        return model
    return dataclasses.replace(model, quantization=row.dtype or "none")


def _engine(row: Any, times: EngineTimes | str) -> Engine:
    """The scheduler of a run; none reuses prefixes."""
    about: dict[str, Any] = {"times": times, "prefix_cache": False}
    if row.library == "trtllm":
        about["token_budget"] = 16_384 if row.protocol == "P1" else 8192
    if row.library == "trtllm" and row.protocol == "P1":
        waits = row.prompt_tokens == row.output_tokens == 1024 and row.tensor < _DEVICES  # noqa: PLR2004 - as published
        about["batch_wait_steps"] = _BATCH_WAIT_STEPS if waits else 0
    return Engine(row.library, **about)


def _traffic(row: Any) -> ClosedLoop | Bursts:
    """The client of a run."""
    lengths = {"prompt_tokens": row.prompt_tokens, "output_tokens": row.output_tokens}
    if row.protocol == "P3":
        return Bursts(size=row.concurrency, shortest=1.0, **lengths)
    return ClosedLoop(
        concurrency=row.concurrency, num_requests=_REQUESTS_OF_A_CLIENT * row.concurrency, **lengths
    )  # fmt: skip
