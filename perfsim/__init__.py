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
from perfsim.ops.graph import OperatorGraph
from perfsim.ops.verify import VerificationReport
from perfsim.report.plot_sweep import plot_heatmap, plot_lines, plot_pareto
from perfsim.simulation import Result, simulate
from perfsim.spec.files import list_scenarios, load_scenario
from perfsim.spec.hardware import Accelerator, Cluster, Efficiency, NetworkTier
from perfsim.spec.model import Model, list_models, load_model
from perfsim.spec.plan import Plan
from perfsim.spec.profiles import list_profiles, load_cluster
from perfsim.spec.scenario import Scenario
from perfsim.spec.workload import Workload
from perfsim.study.archive import load_result, save_result
from perfsim.study.calibrate import calibrate
from perfsim.study.claims import Claim, deployment_claims
from perfsim.study.compare import Comparison, compare
from perfsim.study.crossover import crossover
from perfsim.study.deployment import draw_deployment, write_deployment
from perfsim.study.sweep import SweepInterruptedError, scenario_at, sweep
from perfsim.version import __version__

__all__ = [
    "Accelerator",
    "Claim",
    "Cluster",
    "Comparison",
    "Conditions",
    "DeadlockError",
    "Efficiency",
    "InputError",
    "Model",
    "NetworkTier",
    "OperatorGraph",
    "PerfsimError",
    "Plan",
    "Result",
    "Scenario",
    "SimulationError",
    "Slowdown",
    "SweepInterruptedError",
    "VerificationReport",
    "Workload",
    "__version__",
    "calibrate",
    "compare",
    "cost",
    "crossover",
    "deployment_claims",
    "draw_deployment",
    "list_models",
    "list_profiles",
    "list_scenarios",
    "load_cluster",
    "load_model",
    "load_result",
    "load_scenario",
    "operator_graph",
    "plot_heatmap",
    "plot_lines",
    "plot_pareto",
    "save_result",
    "scenario_at",
    "simulate",
    "sweep",
    "write_deployment",
]
