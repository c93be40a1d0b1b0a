"""The house rules that a machine can check: imports point down and make no circle, modules stay small.

The layers are those of the rooms in `perfsim/`: the first part of a module's name below the package.
"""

import ast
import graphlib
import inspect
import itertools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "perfsim"
MAX_LINES = 400
HEAVY = {
    "bokeh",
    "dask",
    "jinja2",
    "matplotlib",
    "networkx",
    "numba",
    "pandas",
    "pyarrow",
    "pygraphviz",
    "scipy",
    "simpy",
}

# What a room may import besides itself: whole rooms, or single modules of a room.
BELOW_COST = ["errors", "units", "html", "spec", "ops"]
BELOW_SIMULATION = [*BELOW_COST, "cost", "memory", "schedule", "sim", "report"]
WITH_SIMULATION = [*BELOW_SIMULATION, "conditions", "simulation"]
ALLOWED = {
    "version": [],
    "errors": [],
    "units": ["errors"],
    "html": ["units"],
    "spec": ["errors", "units", "html"],
    "ops": ["errors", "units", "html", "spec"],
    "cost": BELOW_COST,
    "memory": BELOW_COST,
    "schedule": [*BELOW_COST, "cost"],
    "sim": ["errors", "units", "schedule.taskgraph"],
    "report": ["errors", "units", "spec", "ops", "cost", "memory", "schedule", "sim"],  # docs/adr/0002
    "conditions": BELOW_SIMULATION,
    "simulation": [*BELOW_SIMULATION, "conditions"],
    "serving": WITH_SIMULATION,
    "versions": ["html", "spec", "version"],
    "study": [*WITH_SIMULATION, "serving", "version"],
    "cli": [*WITH_SIMULATION, "serving", "study", "version"],
    "__main__": ["cli"],  # python -m perfsim
}


@dataclass(frozen=True)
class Import:
    """One module imports another; a package stands for its `__init__.py`."""

    importer: str
    line: int
    imported: str

    def __str__(self):
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules_below(package):
    """Give the path of each module of a package, by its dotted name."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def absolute_name(name, level, package):
    """Resolve a name after `level` dots, as seen from a module of the package."""
    if level == 0:
        return name
    base = package.split(".")[: len(package.split(".")) - (level - 1)]
    return ".".join([*base, name] if name else base)


def names_imported(node, package):
    """Give the names that a syntax node imports: for each, the module and the name taken from it, if any."""
    if isinstance(node, ast.Import):
        return [(alias.name, None) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        module = absolute_name(node.module or "", node.level, package)
        return [(module, alias.name) for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in {
        "import_module",
        "importlib.import_module",
        "__import__",
    }:
        target = node.args[0] if node.args else None
        if isinstance(target, ast.Constant) and isinstance(target.value, str):
            name = target.value.lstrip(".")
            return [(absolute_name(name, len(target.value) - len(name), package), None)]
    return []


def imports_within(package):
    """Give every import of a package's modules from each other, inside functions and under `TYPE_CHECKING` too."""
    modules = modules_below(package)
    found = []
    for importer, path in modules.items():
        parent = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
            for module, name in names_imported(node, parent):
                imported = f"{module}.{name}" if f"{module}.{name}" in modules else module
                if imported.split(".")[0] == package.name:
                    found.append(Import(importer, node.lineno, imported))
    return found


def is_allowed(importer, imported, allowed=ALLOWED):
    """Say whether one module may import another; names are without the package's own."""
    room = importer.split(".")[0]
    permitted = [room, *allowed.get(room, [])]
    return any(imported == name or imported.startswith(f"{name}.") for name in permitted)


def imports_that_point_up(package):
    """Give the imports that the layers forbid; the package's own `__init__.py` may import all, and nobody it."""
    inside = len(package.name) + 1
    return [
        str(found)
        for found in imports_within(package)
        if found.importer != package.name and not is_allowed(found.importer[inside:], found.imported[inside:])
    ]


def circle_of_imports(package):
    """Give the modules of one circle of imports, importer first, or nothing when there is none."""
    graph = {}
    for found in imports_within(package):
        graph.setdefault(found.importer, set()).add(found.imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1][::-1]
    return []


def forbidden_statements(package):
    """Give each call of `print` and each bare `assert`."""
    found = []
    for module, path in modules_below(package).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
            if isinstance(node, ast.Assert):
                found.append(f"{module}:{node.lineno} assert")
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                found.append(f"{module}:{node.lineno} print")
    return found


def long_modules(package, limit=MAX_LINES):
    """Give the modules that are longer than the limit, with their lines."""
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules_below(package).items()
    }
    return {name: lines for name, lines in lengths.items() if lines > limit}


def run_python(code):
    """Run code in a fresh interpreter beside the package, and give what it prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True).stdout


# The package itself


def test_the_package_was_read():
    """The checks below look at modules and imports that are there."""
    assert {"perfsim", "perfsim.errors", "perfsim.units"} <= modules_below(PACKAGE).keys()
    assert imports_within(PACKAGE)


def test_every_module_lives_in_a_known_room():
    """A new room first gets its place among the layers."""
    rooms = {name.split(".")[1] for name in modules_below(PACKAGE) if "." in name}
    assert rooms <= ALLOWED.keys()


def test_imports_point_down():
    """No module imports from a room above its own."""
    faults = imports_that_point_up(PACKAGE)
    assert not faults, "\n".join(faults)


def test_imports_make_no_circle():
    """No module imports itself by way of others."""
    circle = circle_of_imports(PACKAGE)
    assert not circle, " -> ".join(circle)


def test_no_print_and_no_bare_assert():
    """A library does not print, and checks its input with errors of its own."""
    faults = forbidden_statements(PACKAGE)
    assert not faults, "\n".join(faults)


def test_modules_are_short():
    """A module that outgrows the limit holds more than one concept."""
    assert long_modules(PACKAGE) == {}


def test_no_module_bears_the_name_of_a_public_function():
    """Importing the module would put it in the function's place."""
    import perfsim

    functions = {name for name in perfsim.__all__ if inspect.isroutine(getattr(perfsim, name))}
    assert functions
    at_the_root = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert functions.isdisjoint(at_the_root)


def test_import_loads_no_heavy_library():
    """Heavy libraries wait until they are used: `import perfsim` is quick."""
    loaded = run_python("import sys, perfsim; print(*sorted({name.split('.')[0] for name in sys.modules}))").split()
    assert "perfsim" in loaded
    assert HEAVY.isdisjoint(loaded)


# The layers and the checks themselves


def test_layers_are_in_order():
    """The table of layers has no circle, and names no room that it does not list."""
    rooms = {room: {name.split(".")[0] for name in names} for room, names in ALLOWED.items()}
    assert set(itertools.chain.from_iterable(rooms.values())) <= rooms.keys()
    graphlib.TopologicalSorter(rooms).prepare()


@pytest.fixture
def tree(tmp_path):
    """Give a function that writes a small package `perfsim` from the text of its modules."""

    def write(**texts):
        package = tmp_path / "perfsim"
        for name, text in {"__init__": "", **texts}.items():
            path = package / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return package

    return write


@pytest.mark.parametrize(
    ("text", "imported"),
    [
        ("import perfsim.cost.matmul", "perfsim.cost.matmul"),
        ("from perfsim.cost import matmul", "perfsim.cost.matmul"),
        ("from perfsim.cost.matmul import seconds", "perfsim.cost.matmul"),
        ("from ..cost import matmul", "perfsim.cost.matmul"),
        ("from ..cost.matmul import seconds as s", "perfsim.cost.matmul"),
        ("def late():\n    from perfsim import cost", "perfsim.cost"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..cost import Cost", "perfsim.cost"),
        ("import importlib\nimportlib.import_module('perfsim.cost.matmul')", "perfsim.cost.matmul"),
        ("from importlib import import_module\nimport_module('..cost', __package__)", "perfsim.cost"),
        ("from perfsim import simulate", "perfsim"),
        ("from .. import simulate", "perfsim"),
        ("import perfsim", "perfsim"),
        ("from perfsim.cli import main", "perfsim.cli"),
    ],
)
def test_an_import_that_points_up_is_caught(tree, text, imported):
    """Each way to write an import from above, or from the package itself, is a fault."""
    package = tree(spec__in__model=text, cost__in____init__="", cost__in__matmul="", cli="")
    line = len(text.splitlines())
    assert imports_that_point_up(package) == [f"perfsim.spec.model:{line} imports {imported}"]


def test_imports_that_point_down_pass(tree):
    """Lower rooms, the own room, other libraries and the package's `__init__.py` are free."""
    package = tree(
        __init__="from perfsim.simulation import simulate\nfrom perfsim import cli",
        __main__="from perfsim.cli import main",
        cli="import click\nfrom perfsim.simulation import simulate",
        errors="",
        simulation="from perfsim.spec.model import Model\nfrom .spec import plan",
        spec__in____init__="",
        spec__in__model="import numpy\nfrom . import plan\nfrom ..errors import InputError",
        spec__in__plan="from perfsim import errors",
    )
    assert len(imports_within(package)) == 9
    assert imports_that_point_up(package) == []
    assert circle_of_imports(package) == []


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("sim.compiled", "schedule.taskgraph", True),
        ("sim.compiled", "schedule.expand", False),
        ("sim.compiled", "schedule", False),
        ("sim.compiled", "spec.model", False),
        ("report.memory", "memory", True),
        ("report.dot", "ops.graph", True),
        ("report.dot", "simulation", False),
        ("report.metrics", "simulation", False),
        ("memory", "cost.roofline", False),
        ("study.sweep", "serving.engine", True),
        ("serving.engine", "study.sweep", False),
        ("unknown", "errors", False),
        ("spec.model", "specification", False),
    ],
)
def test_layers_mean_what_the_design_says(importer, imported, allowed):
    """The narrow waist, and the other edges that are easy to cross."""
    assert is_allowed(importer, imported) == allowed


def test_a_circle_is_caught(tree):
    """A circle inside one room is found, also when half of it hides in a function."""
    package = tree(
        spec__in__model="from .plan import Plan",
        spec__in__plan="from perfsim.spec import workload",
        spec__in__workload="def late():\n    from perfsim.spec.model import Model",
    )
    assert imports_that_point_up(package) == []
    assert set(circle_of_imports(package)) == {"perfsim.spec.model", "perfsim.spec.plan", "perfsim.spec.workload"}


def test_a_circle_by_way_of_a_package_is_caught(tree):
    """A module that takes from its package what the package takes from it goes in a circle."""
    package = tree(spec__in____init__="from .model import Model", spec__in__model="from perfsim.spec import Model")
    assert set(circle_of_imports(package)) == {"perfsim.spec", "perfsim.spec.model"}


def test_print_and_assert_are_caught(tree):
    """The check finds both, but not a method that prints nor the words in a text."""
    package = tree(units="def f(console):\n    assert console\n    print('x')\n    console.print('print(assert)')")
    assert forbidden_statements(package) == ["perfsim.units:2 assert", "perfsim.units:3 print"]


def test_a_long_module_is_caught(tree):
    """The limit itself is allowed, one line more is not."""
    package = tree(errors="#\n" * MAX_LINES, units="#\n" * (MAX_LINES + 1))
    assert long_modules(package) == {"perfsim.units": MAX_LINES + 1}
