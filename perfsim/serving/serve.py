"""Serve a model: a scenario, its traffic and its engine in, latencies out."""

from __future__ import annotations

from perfsim.errors import Faults
from perfsim.serving.deployment import Deployment
from perfsim.serving.policies import Engine
from perfsim.serving.results import ServeResult, serve_requests
from perfsim.serving.services import Services
from perfsim.serving.traffic import Bursts, ClosedLoop, OpenLoop, Trace
from perfsim.spec.scenario import Scenario

__all__ = ["check_parts", "serve"]

Traffic = ClosedLoop | OpenLoop | Bursts | Trace


def serve(
    scenario: Scenario,
    traffic: Traffic,
    engine: Engine,
    *,
    deployment: Deployment | None = None,
    simulator: str = "compiled",
    limit_s: float | None = None,
) -> ServeResult:
    """Simulate an engine that serves requests on the GPUs of a scenario.

    Parameters
    ----------
    scenario : Scenario
        Cluster, model and plan, and the data types of the workload; its phase, batch and sequence do not matter. Each
        of the `plan.data` replicas is an engine of its own behind a router, unless replicas share experts: then they
        step together as one.
    traffic : ClosedLoop, OpenLoop, Bursts or Trace
    engine : Engine
        Where it leaves `kv_blocks` out, they are what fits beside weights and activations in 0.9 of the memory.
    deployment : Deployment, optional
        Router and pools; as many replicas as the plan has when left out.
    simulator : str
        ``compiled``, or ``simpy`` for the event-by-event simulation; the same times to the bit.
    limit_s : float, optional
        When all requests must have ended, in simulated seconds.

    Returns
    -------
    ServeResult

    Raises
    ------
    InputError
        An argument is of another kind, the plan has stages or context ranks, or the engine can never serve a request.
    OverloadError
        Requests are left at `limit_s`; the error carries the partial result.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.Scenario(
    ...     perfsim.load_cluster("dgx-h100", num_devices=8), perfsim.load_model("llama-3.1-70b"),
    ...     perfsim.Plan(tensor=8), perfsim.Workload())
    >>> traffic = perfsim.ClosedLoop(concurrency=4, prompt_tokens=1024, output_tokens=64)
    >>> result = perfsim.serve(scenario, traffic, perfsim.Engine("trtllm"))
    >>> result.requests.shape[0], bool(0 < result.tpot_s < result.ttft_s)
    (40, True)
    """
    faults = Faults("serve")
    check_parts(faults, scenario, traffic, engine, deployment)
    faults.raise_if_any()
    service = Services(scenario).of(engine, deployment)
    return serve_requests(service, traffic.requests(), simulator=simulator, limit_s=limit_s)


def check_parts(faults: Faults, scenario: object, traffic: object, engine: object, deployment: object) -> None:
    """Record parts of a simulation of serving that are of another kind."""
    faults.instance("scenario", scenario, Scenario)
    if not isinstance(traffic, Traffic):
        faults.add("traffic", traffic, "must be a ClosedLoop, an OpenLoop, Bursts or a Trace", "see docs/serving.md")
    faults.instance("engine", engine, Engine)
    if deployment is not None:
        faults.instance("deployment", deployment, Deployment)
