"""Run by the interpreter of AIConfigurator's own environment, as a file: requests in on stdin, answers out on stdout.

Both are JSON lists. A request holds keyword arguments of AIConfigurator's ``cli_estimate``; its answer has ``ttft_s``
and ``tpot_s`` in seconds, null where ``failure`` says why there are none. Nothing of perfsim may be imported here: that
environment does not have it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import urllib.error
import urllib.request
from functools import cache
from typing import Any, NoReturn

_MS_PER_S = 1e3


class _Offline(urllib.request.BaseHandler):
    """Keeps AIConfigurator from fetching a model's configuration that it does not bring along."""

    handler_order = 0  # before the handlers that connect

    @staticmethod
    def https_open(request: urllib.request.Request) -> NoReturn:
        message = f"perfsim lets it fetch nothing, not {request.full_url}"
        raise urllib.error.URLError(message)


@cache
def _version(system: str, backend: str) -> str | None:
    """The default database version. To look it up takes 2 s: `cli_estimate` on its own would do so for each request."""
    from aiconfigurator.sdk.perf_database import get_latest_database_version

    return get_latest_database_version(system=system, backend=backend)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from aiconfigurator.cli.api import cli_estimate

    try:
        version = _version(request["system_name"], request["backend_name"])
        found = cli_estimate(**request, backend_version=version)
        ttft_s, tpot_s = float(found.ttft) / _MS_PER_S, float(found.tpot) / _MS_PER_S
    except Exception as error:  # noqa: BLE001 - it raises all kinds, and the other requests are still to be answered
        return {"ttft_s": None, "tpot_s": None, "failure": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    if not (math.isfinite(ttft_s) and math.isfinite(tpot_s)):
        return {"ttft_s": None, "tpot_s": None, "failure": f"TTFT {ttft_s} s and TPOT {tpot_s} s are not finite"}
    return {"ttft_s": ttft_s, "tpot_s": tpot_s, "failure": ""}


def main() -> None:
    """Answer all requests."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what AIConfigurator prints must not come between the answers
        urllib.request.install_opener(urllib.request.build_opener(_Offline))
        json.dump([_answer(request) for request in json.load(sys.stdin)], answers)


if __name__ == "__main__":
    main()
