"""What a bug report needs to say of the computer and the libraries on it."""

from __future__ import annotations

import os
import platform
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from perfsim import html
from perfsim.spec.profiles import profile_folder
from perfsim.version import __version__

__all__ = ["LIBRARIES", "Versions", "show_versions"]

LIBRARIES = (
    "numpy", "pandas", "scipy", "numba", "simpy", "networkx", "matplotlib", "bokeh", "jinja2", "pygraphviz", "pyarrow",
    "click", "rich", "tqdm", "aiconfigurator-core", "dask", "distributed", "tomli_w",
)  # fmt: skip
"""What perfsim requires, and what its extras for users bring; a test compares them with pyproject.toml."""
_MISSING = "not installed"


@dataclass(frozen=True, repr=False)
class Versions:
    """Versions of perfsim, Python and libraries, and the machine; prints itself.

    Attributes
    ----------
    entries : dict of str to str
    """

    entries: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.entries[name]

    def __str__(self) -> str:
        width = max(map(len, self.entries))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.entries.items())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html.card("Versions", html.facts(self.entries))


def show_versions() -> Versions:
    """Collect what a bug report should contain.

    No library is imported for it, and no name of the computer or of its user is in it.

    Returns
    -------
    Versions
        perfsim, Python, operating system and processors, every library that perfsim needs or can use, and the data to
        which the shipped coefficients were fitted.

    Examples
    --------
    >>> import perfsim
    >>> found = perfsim.show_versions()
    >>> found["perfsim"] == perfsim.__version__, found["numpy"] != "not installed"
    (True, True)
    """
    return Versions(
        {
            "perfsim": __version__,
            "coefficients fitted to": ", ".join(_data_versions()) or "none shipped",
            "Python": f"{platform.python_implementation()} {platform.python_version()}",
            "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
            "CPUs": _processors(),
            **{name: _version_of(name) for name in LIBRARIES},
        }
    )


def _processors() -> str:
    """Processors of the computer, and those that this process may use where the system says so."""
    count = os.cpu_count() or 0
    if sys.platform == "linux":
        return f"{count}, {len(os.sched_getaffinity(0))} of them usable"
    return str(count)


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _MISSING


def _data_versions() -> list[str]:
    """What the shipped files of coefficients say of their data."""
    found = set()
    for path in sorted((profile_folder() / "kernels").glob("*.toml")):
        top = path.read_text(encoding="utf-8").partition("\n[")[0]  # all before the first table
        data = tomllib.loads(top).get("data")
        found |= {data} if data else set()
    return sorted(found)
