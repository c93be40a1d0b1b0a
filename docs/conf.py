"""The site: the pages of this folder, the notebooks and the docstrings, for `sphinx-build -W -c docs . build/docs`.

Its source is the whole checkout, so that the links of a page lead to the same place on the forge and on the site.
"""

import pydoc
import re
import shutil
from functools import cache
from inspect import isfunction, signature
from pathlib import Path

from docutils.nodes import Element, Node, Text
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import perfsim

project = "perfsim"
version = release = perfsim.__version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
root_doc = "docs/README"
include_patterns = ["README.md", "CHANGELOG.md", "docs/**", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "docs/templates"]

# Docstrings: `name` is a link, and one that leads nowhere is an error.
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # numpydoc has them in words, with shapes and units
default_role = "py:obj"
nitpicky = True
numpydoc_show_class_members = False  # autodoc has them whole
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"  # but these
numpydoc_xref_aliases = {name: f"perfsim.{name}" for name in perfsim.__all__ if name[0].isupper()}
templates_path = ["docs/templates"]

# Pages
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are stored executed; a test executes them

# Looks
html_theme = "furo"
html_title = "perfsim"
html_extra_path = ["site/index.html"]  # leads to the root document
html_static_path = ["site/tables.css"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_copyright = False
pygments_dark_style = "github-dark"


def add_contents(_: Sphinx, docname: str, source: list[str]) -> None:
    """Make the tree of contents from the tables of the index: a group for each heading, a page for each row."""
    if docname == root_doc:
        for group in source[0].split("\n## ")[1:]:
            caption, rows = group.split("\n", 1)
            pages = re.findall(r"^\| \[.+?\]\((.+?)\)", rows, re.MULTILINE)
            source[0] += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


@cache
def parameters(names: tuple[str, ...]) -> set[str]:
    """Parameters of the documented functions; the fields of a dataclass are those of its `__init__`."""
    found = [pydoc.locate(name) for name in names]
    functions = [each for value in found for each in (value, getattr(value, "__init__", None)) if isfunction(each)]
    return {parameter for function in functions for parameter in signature(function).parameters}


def allow_missing(_: Sphinx, env: BuildEnvironment, node: Element, text: Element) -> Node | None:
    """Let go what has no target: parameters and fields, which numpydoc writes like links, and types from elsewhere."""
    if node["reftarget"].startswith(("python:", "numpy")):
        return Text(text.astext().rpartition(":")[2])
    *owners, name = node["reftarget"].split(".")
    known = parameters(tuple(env.domains["py"].objects))
    return text if name in known and known.union(perfsim.__all__).issuperset(owners) else None


def setup(app: Sphinx) -> None:
    """Join both to the build, which begins without the pages of names that are gone."""
    shutil.rmtree(Path(app.confdir) / "generated", ignore_errors=True)
    app.connect("source-read", add_contents)
    app.connect("missing-reference", allow_missing)
