"""perfsim predicts how a parallel plan runs a large language model on given hardware, and why.

A scenario says WHAT runs where: a cluster, a model, a plan and a workload. `simulate` turns it into a result: the
operator graph, the time of every execution on every device, load balance, memory. `compare` holds several plans against
a baseline.

>>> import perfsim
>>> result = perfsim.simulate(perfsim.load_scenario("seed-improved"))
>>> result.fits, result.dag.verify().passed
(True, True)
"""

from perfsim import cost
from perfsim.conditions import Conditions, Slowdown
from perfsim.errors import DeadlockError, InputError, PerfsimError, SimulationError
from perfsim.ops.build import operator_graph
from perfsim.ops.checks import VerificationReport
from perfsim.ops.foreign.verify import verify
from perfsim.ops.graph import OperatorGraph
from perfsim.report.plot_sweep import plot_heatmap, plot_lines, plot_pareto
from perfsim.serving.deployment import Deployment
from perfsim.serving.policies import Engine
from perfsim.serving.results import ServeResult
from perfsim.serving.serve import serve
from perfsim.serving.traffic import Bursts, ClosedLoop, OpenLoop, Trace
from perfsim.simulation import Result, simulate
from perfsim.spec.files import list_scenarios, load_scenario
from perfsim.spec.hardware import Accelerator, Cluster, Efficiency, NetworkTier
from perfsim.spec.mixed import join_clusters
from perfsim.spec.model import Model, list_models, load_model
from perfsim.spec.plan import Plan
from perfsim.spec.profiles import list_profiles, load_cluster
from perfsim.spec.scenario import Scenario
from perfsim.spec.workload import Workload
from perfsim.study.advice import Advice
from perfsim.study.advise import advise
from perfsim.study.archive import load_result, save_result
from perfsim.study.calibrate import calibrate
from perfsim.study.claims import Claim, deployment_claims
from perfsim.study.compare import Comparison, compare
from perfsim.study.crossover import crossover
from perfsim.study.deployment import draw_deployment, write_deployment
from perfsim.study.explain import explain
from perfsim.study.explanation import Explanation, Finding
from perfsim.study.limits import max_batch
from perfsim.study.load_result import MaxLoad, UnmetError
from perfsim.study.max_load import max_load
from perfsim.study.page import write_page
from perfsim.study.sensitivity import sensitivity
from perfsim.study.smallest import min_devices, smallest_plan
from perfsim.study.sweep import SweepInterruptedError, scenario_at, sweep
from perfsim.study.trace import write_trace
from perfsim.study.what_if import WhatIf, what_if
from perfsim.version import __version__
from perfsim.versions import Versions, show_versions

__all__ = [
    "Accelerator",
    "Advice",
    "Bursts",
    "Claim",
    "ClosedLoop",
    "Cluster",
    "Comparison",
    "Conditions",
    "DeadlockError",
    "Deployment",
    "Efficiency",
    "Engine",
    "Explanation",
    "Finding",
    "InputError",
    "MaxLoad",
    "Model",
    "NetworkTier",
    "OpenLoop",
    "OperatorGraph",
    "PerfsimError",
    "Plan",
    "Result",
    "Scenario",
    "ServeResult",
    "SimulationError",
    "Slowdown",
    "SweepInterruptedError",
    "Trace",
    "UnmetError",
    "VerificationReport",
    "Versions",
    "WhatIf",
    "Workload",
    "__version__",
    "advise",
    "calibrate",
    "compare",
    "cost",
    "crossover",
    "deployment_claims",
    "draw_deployment",
    "explain",
    "join_clusters",
    "list_models",
    "list_profiles",
    "list_scenarios",
    "load_cluster",
    "load_model",
    "load_result",
    "load_scenario",
    "max_batch",
    "max_load",
    "min_devices",
    "operator_graph",
    "plot_heatmap",
    "plot_lines",
    "plot_pareto",
    "save_result",
    "scenario_at",
    "sensitivity",
    "serve",
    "show_versions",
    "simulate",
    "smallest_plan",
    "sweep",
    "verify",
    "what_if",
    "write_deployment",
    "write_page",
    "write_trace",
]
