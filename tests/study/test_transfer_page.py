"""The section about GPUs that were left out: misses are shown as misses."""

import pandas as pd

from perfsim.study.silicon.transfer import COLUMNS
from perfsim.study.transfer_page import transfer_goals, transfer_part

ROWS = pd.DataFrame(
    [
        ("sibling", "matmul", "bf16", "trtllm", "h100_sxm", "h200_sxm", 9000, 5.0, 5.0, 3.0, 9.0, 1.0, 4.5),
        ("sibling", "matmul", "bf16", "trtllm", "b200_sxm", "gb200", 9000, 8.0, 8.0, 6.0, 17.0, -1.0, 7.5),
        ("points", "matmul", "bf16", "trtllm", "l40s", "rtx", 9000, 12.0, 14.0, 8.0, 29.0, -1.0, 9.5),
        ("datasheet", "nccl", "any", "nccl", "l40s", "rtx", 200, 36.0, 36.0, 20.0, 80.0, -30.0, 5.5),
    ],
    columns=list(COLUMNS),
)


def test_each_experiment_has_its_table():
    """With the goal beside, and the worst draw where there are several."""
    lines = transfer_part(ROWS)
    rows = [line for line in lines if line.startswith(("| matmul", "| nccl"))]
    assert [row.rsplit("|", 2)[1].strip() for row in rows] == ["met", "missed", "met", "missed"]
    assert "| 12.00 | 14.00 |" in rows[2]
    assert "| 5.00 | - |" in rows[0]
    assert sum(line.startswith("\n### ") for line in lines) == 3


def test_an_experiment_without_rows_has_none():
    """As where only some operators were asked for."""
    lines = "\n".join(transfer_part(ROWS[ROWS["experiment"] == "points"]))
    assert "32 measured points" in lines
    assert "datasheet only" not in lines


def test_goals_are_those_of_the_operator_or_of_the_gpu():
    """A goal without rows has an empty series."""
    goals = {(words, percent): mape.tolist() for words, percent, mape in transfer_goals(ROWS)}
    assert goals["a GPU left out, its sibling known: matmul", 5.5] == [5.0, 8.0]
    assert goals["matmul of a GPU left out, 32 measured points: l40s", 12.5] == [12.0]
    assert goals["a new architecture, datasheet only: decode", 25] == []
