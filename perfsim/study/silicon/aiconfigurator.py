"""What AIConfigurator predicts for measured serving runs, to be shown beside perfsim's predictions.

It runs in an environment of its own: perfsim needs none of the packages that it brings along.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfsim.errors import InputError
from perfsim.study.silicon.serving_runs import BUNDLED

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["aiconfigurator_predictions"]

_SCRIPT = Path(__file__).with_name("aiconfigurator_script.py")
_TIMEOUT_S = 3600
_WAY_OUT = "make one: python -m venv aiconfigurator && aiconfigurator/bin/pip install aiconfigurator==0.12.0"

_ANSWER = ("ttft_s", "tpot_s", "failure")
_SIZES = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
_DTYPES = ("gemm_quant_mode", "moe_quant_mode")


def aiconfigurator_predictions(rows: pd.DataFrame, python: str | Path) -> pd.DataFrame:
    """Ask AIConfigurator for the latencies of serving runs, one call of its ``cli_estimate`` for each.

    It is asked in its mode for aggregated serving, offline, with the default database of each system and library, and
    with its own defaults for all that a row does not say.

    Parameters
    ----------
    rows : DataFrame
        With the columns of the public package's ``silicon_sample.csv``, and ``conc``: the client's concurrency, taken
        for the batch size where the column ``batch_size`` is empty.
    python : str or Path
        The Python interpreter of an environment that has ``aiconfigurator``.

    Returns
    -------
    DataFrame
        By ``id`` and in the order of the rows: ``ttft_s`` and ``tpot_s``, NaN where it cannot predict, and ``failure``,
        which says why and is empty elsewhere.

    Raises
    ------
    InputError
        The interpreter cannot be started, has no ``aiconfigurator``, or gives no answer.

    Examples
    --------
    >>> import pandas as pd
    >>> aiconfigurator_predictions(pd.DataFrame({"id": []}), "no/such/python")
    Traceback (most recent call last):
    perfsim.errors.InputError: python = 'no/such/python': must be the Python interpreter of an environment with
    aiconfigurator (No such file or directory); make one: ...
    """
    import pandas as pd

    answers = _ask([_request(row) for row in rows.to_dict("records")], str(python))
    table = pd.DataFrame(answers, columns=list(_ANSWER), index=pd.Index(rows["id"], name="id"))
    return table.astype({"ttft_s": float, "tpot_s": float, "failure": str})


def _request(row: dict[str, Any]) -> dict[str, Any]:
    """Give the arguments of ``cli_estimate``."""
    known = {name: value for name, value in row.items() if value == value}  # noqa: PLR0124 - NaN is not itself
    request = {
        "mode": "agg", "model_path": BUNDLED.get(known["model_path"], known["model_path"]),
        "system_name": known["system"], "backend_name": known["backend"],
        "isl": int(known["isl"]), "osl": int(known["osl"]), "batch_size": int(known.get("batch_size", known["conc"])),
    }  # fmt: skip
    request |= {name: int(known[name]) for name in _SIZES if name in known}
    request |= {name: known[name] for name in _DTYPES if name in known}
    # Left alone, it takes a bf16 KV cache where the model's configuration names no quantisation, as that of Llama. So
    # does SGLang unless it is told otherwise, and the databases have no attention of SGLang on H200 with an fp8 one.
    if known.get("precision") in {"fp8", "fp4"} and known["backend"] != "sglang":
        request["kvcache_quant_mode"] = "fp8"
    return request


def _ask(requests: list[dict[str, Any]], python: str) -> list[dict[str, Any]]:
    """Have the script answer the requests, all in one process: AIConfigurator keeps the databases that it has read."""
    command = [python, "-I", str(_SCRIPT)]  # -I: its imports must find neither perfsim's modules nor its libraries
    try:
        done = subprocess.run(  # noqa: S603 - the user names the interpreter
            command, input=json.dumps(requests), capture_output=True, check=False, timeout=_TIMEOUT_S,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
        answers = json.loads(done.stdout)
    except OSError as error:
        reason = str(error.strerror)
    except subprocess.TimeoutExpired:
        reason = f"it gave no answer in {_TIMEOUT_S} s"
    except json.JSONDecodeError:
        reason = (done.stderr.splitlines() or [f"it answered nothing that is JSON, exit code {done.returncode}"])[-1]
    else:
        if isinstance(answers, list) and len(answers) == len(requests):
            return answers
        reason = f"it did not answer each of {len(requests)} requests"
    allowed = f"must be the Python interpreter of an environment with aiconfigurator ({reason})"
    raise InputError.of("python", python, allowed, _WAY_OUT)
