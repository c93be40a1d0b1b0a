"""AIConfigurator beside perfsim: what it is asked, what becomes of its answers, environments that cannot answer."""

import json
import shlex
import sys
import textwrap

import pandas as pd
import pytest

from perfsim.errors import InputError
from perfsim.study.silicon import aiconfigurator
from perfsim.study.silicon.aiconfigurator import aiconfigurator_predictions

NAN = float("nan")
ROW = {
    "id": "a", "model_path": "Qwen/Qwen3-32B", "system": "h200_sxm", "backend": "vllm", "precision": "fp8", "isl": 1024,
    "osl": 128, "conc": 32.0, "batch_size": 16.0, "tp_size": 2.0, "pp_size": 1.0, "attention_dp_size": NAN,
    "moe_tp_size": 2.0, "moe_ep_size": 1.0, "gemm_quant_mode": "fp8", "moe_quant_mode": NAN,
}  # fmt: skip
ASKED = {
    "mode": "agg", "model_path": "Qwen/Qwen3-32B", "system_name": "h200_sxm", "backend_name": "vllm", "isl": 1024,
    "osl": 128, "batch_size": 16, "tp_size": 2, "pp_size": 1, "moe_tp_size": 2, "moe_ep_size": 1,
    "gemm_quant_mode": "fp8", "kvcache_quant_mode": "fp8",
}  # fmt: skip
GOOD = "[{'ttft_s': 0.5, 'tpot_s': 0.25, 'failure': ''} for request in requests]"

ESTIMATE = """
import sys, types, urllib.request

print("chatter while it loads")

def cli_estimate(model_path, *, isl, backend_version, **others):
    print("chatter for each estimate")
    sys.stderr.write("a warning\\n")
    if model_path == "unknown":
        raise KeyError("no such model,\\n  none at all")
    if model_path == "remote":
        urllib.request.urlopen("https://huggingface.co/remote/config.json")
    tpot = float("nan") if model_path == "odd" else float(backend_version)
    return types.SimpleNamespace(ttft=2.0 * isl, tpot=tpot)
"""
DATABASE = """
asked = []

def get_latest_database_version(system, backend):
    asked.append((system, backend))
    assert asked.count((system, backend)) == 1, "looked up twice"
    return {"h200_sxm": "40", "b200_sxm": "20"}[system]
"""


def rows_of(*changes):
    """Give rows that differ from `ROW` as told."""
    return pd.DataFrame([{**ROW, "id": f"row{n}", **change} for n, change in enumerate(changes)])


@pytest.fixture
def interpreter(tmp_path):
    """Make a program that stands for the interpreter of the other environment, from Python code."""

    def make(code):
        script, program = tmp_path / "fake.py", tmp_path / "python"
        script.write_text(textwrap.dedent(code), encoding="utf-8")
        program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(script)])} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        return program

    return make


@pytest.fixture
def answering(interpreter, tmp_path):
    """Make an interpreter that keeps the requests and answers with an expression of them."""
    kept = tmp_path / "requests.json"

    def make(answers=GOOD):
        return interpreter(f"""
            import json, sys
            requests = json.load(sys.stdin)
            open({str(kept)!r}, "w").write(json.dumps(requests))
            sys.stderr.write("chatter\\n")
            json.dump({answers}, sys.stdout)
        """)

    make.requests = lambda: json.loads(kept.read_text(encoding="utf-8"))
    return make


@pytest.fixture
def environment(interpreter, tmp_path):
    """Give an interpreter that runs the real script, and finds a small package in place of AIConfigurator."""
    for name, code in {"cli/api.py": ESTIMATE, "sdk/perf_database.py": DATABASE}.items():
        module = tmp_path / "site" / "aiconfigurator" / name
        module.parent.mkdir(parents=True)
        module.write_text(code, encoding="utf-8")
    return interpreter(f"""
        import runpy, sys
        sys.path.insert(0, {str(tmp_path / "site")!r})
        runpy.run_path(sys.argv[-1], run_name="__main__")
    """)


def test_a_row_is_asked_for_by_what_it_says(answering):
    """Numbers are whole, and what is not known is left to AIConfigurator."""
    aiconfigurator_predictions(rows_of({}), answering())
    assert answering.requests() == [ASKED]


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"batch_size": NAN}, {"batch_size": 32}),
        ({"attention_dp_size": 4.0}, {"attention_dp_size": 4}),
        ({"moe_quant_mode": "nvfp4"}, {"moe_quant_mode": "nvfp4"}),
        ({"model_path": "meta-llama/Llama-3.1-70B"}, {"model_path": "meta-llama/Meta-Llama-3.1-70B"}),
        ({"precision": "fp4", "gemm_quant_mode": "nvfp4"}, {"gemm_quant_mode": "nvfp4", "kvcache_quant_mode": "fp8"}),
    ],
)
def test_what_else_a_row_may_say(answering, change, asked):
    """An empty batch size is the client's concurrency; configurations are those that need no download."""
    aiconfigurator_predictions(rows_of(change), answering())
    assert answering.requests() == [ASKED | asked]


@pytest.mark.parametrize("change", [{"precision": NAN}, {"backend": "sglang"}])
def test_the_kv_cache_is_left_alone_without_quantisation_and_on_sglang(answering, change):
    """Only quantised checkpoints on the other libraries are taken to have run with an fp8 cache."""
    aiconfigurator_predictions(rows_of(change), answering())
    assert "kvcache_quant_mode" not in answering.requests()[0]


def test_answers_are_the_rows_by_id(answering):
    """Rows keep their order; one without an answer has NaN and says why."""
    answers = (
        "[{'ttft_s': None, 'tpot_s': None, 'failure': 'too large'} if request['isl'] > 1024 "
        "else {'ttft_s': request['isl'] / 1000, 'tpot_s': 0.25, 'failure': ''} for request in requests]"
    )
    found = aiconfigurator_predictions(rows_of({"isl": 512}, {"isl": 2048}, {}), answering(answers))
    expected = pd.DataFrame(
        {"ttft_s": [0.512, NAN, 1.024], "tpot_s": [0.25, NAN, 0.25], "failure": ["", "too large", ""]},
        index=pd.Index(["row0", "row1", "row2"], name="id"),
    )
    pd.testing.assert_frame_equal(found, expected)


def test_no_rows_give_no_predictions(answering):
    """The columns and their types are there all the same."""
    found = aiconfigurator_predictions(rows_of({}).head(0), answering())
    assert found.empty
    assert found.dtypes[["ttft_s", "tpot_s"]].tolist() == [float, float]


def test_the_script_answers_each_request(environment):
    """What it prints gets between no answers, versions are looked up once, and milliseconds become seconds."""
    rows = rows_of({}, {"isl": 512}, {"system": "b200_sxm"})
    found = aiconfigurator_predictions(rows, environment)
    assert found["failure"].tolist() == ["", "", ""]
    assert found["ttft_s"].tolist() == [2.048, 1.024, 2.048]
    assert found["tpot_s"].tolist() == [0.04, 0.04, 0.02]


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({"model_path": "unknown"}, "KeyError: 'no such model,"),
        ({"model_path": "odd"}, "TTFT 2.048 s and TPOT nan s are not finite"),
        ({"model_path": "remote"}, "URLError: <urlopen error perfsim lets it fetch nothing, not https://huggingface"),
        ({"system": "abacus"}, "KeyError: 'abacus'"),
    ],
)
def test_the_script_says_why_it_cannot_answer_and_goes_on(environment, change, failure):
    """One line of reason; the rows before and after have their answers."""
    found = aiconfigurator_predictions(rows_of({}, change, {}), environment)
    assert found["ttft_s"].isna().tolist() == found["tpot_s"].isna().tolist() == [False, True, False]
    assert found["failure"].iloc[1].startswith(failure)
    assert "\n" not in found["failure"].iloc[1]


def refused(python):
    """Give the one fault that an interpreter is refused for."""
    with pytest.raises(InputError) as caught:
        aiconfigurator_predictions(rows_of({}), python)
    (fault,) = caught.value.faults
    assert fault.field == "python"
    assert fault.value == str(python)
    assert "pip install aiconfigurator==0.12.0" in fault.way_out
    return fault.allowed


def test_an_interpreter_that_is_not_there(tmp_path):
    """A folder is none either."""
    assert "No such file or directory" in refused(tmp_path / "python")
    assert "Permission denied" in refused(tmp_path)


def test_an_environment_without_aiconfigurator(interpreter):
    """The module of perfsim that has the same name is not taken for it."""
    assert "ModuleNotFoundError: No module named 'aiconfigurator'" in refused(
        interpreter("import runpy, sys; runpy.run_path(sys.argv[-1], run_name='__main__')")
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit(3)", "it answered nothing that is JSON, exit code 3"),
        ("print('[]')", "it did not answer each of 1 requests"),
        ("print('1')", "it did not answer each of 1 requests"),
    ],
)
def test_a_program_that_is_no_such_interpreter(interpreter, code, reason):
    """Whatever it answers, it is said what is wrong with it."""
    assert reason in refused(interpreter(code))


def test_an_interpreter_that_does_not_answer(interpreter, monkeypatch):
    """It is waited for, but not for ever."""
    monkeypatch.setattr(aiconfigurator, "_TIMEOUT_S", 0.1)
    assert "it gave no answer in 0.1 s" in refused(interpreter("import time; time.sleep(2)"))
