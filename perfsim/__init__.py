from perfsim.spec.profiles import list_profiles, load_cluster
from perfsim.spec.files import load_scenario, list_scenarios
from perfsim.spec.model import load_model, list_models
from perfsim.spec.workload import Workload
from perfsim.spec.plan import Plan
from perfsim.spec.scenario import Scenario
from perfsim.ops.graph import OperatorGraph
from perfsim.ops.build import operator_graph
from perfsim.simulation import simulate, Result
from perfsim import cost
