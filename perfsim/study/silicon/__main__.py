"""``python -m perfsim.study.silicon [NAME...]``: fit every shipped coefficient to the public tables again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from perfsim.errors import Faults, InputError
from perfsim.study.silicon.communication import write_communication
from perfsim.study.silicon.fit_attentions import write_attention
from perfsim.study.silicon.fit_grouped import write_grouped_matmuls
from perfsim.study.silicon.fit_matmuls import write_matmuls
from perfsim.study.silicon.fit_serving import write_engine_times
from perfsim.study.silicon.memory_bound import write_memory_bound
from perfsim.study.silicon.systems import tables_folder

_FITS: dict[str, Callable[[], Any]] = {
    "matmul": write_matmuls,
    "grouped_matmul": write_grouped_matmuls,
    "attention": write_attention,
    "communication": write_communication,
    "memory_bound": write_memory_bound,
    "serving": write_engine_times,
}


def refit(names: Sequence[str] = ()) -> None:
    """Fit and write the named parts of the coefficient files; all of them when none is named.

    Raises
    ------
    InputError
        There is no such part, or the extra `silicon` is not installed.
    """
    faults = Faults("silicon")
    for name in names:
        faults.choice("name", name, tuple(_FITS))
    faults.raise_if_any()
    tables_folder()
    for name, write in _FITS.items():
        if not names or name in names:
            write()


if __name__ == "__main__":
    try:
        refit(sys.argv[1:])
    except InputError as error:
        sys.stderr.write(f"perfsim: {' '.join(str(error).split())}\n")
        sys.exit(2)
