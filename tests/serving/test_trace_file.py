"""Recorded requests: three formats, one meaning; and what is wrong with a file is said once and clearly."""

import pandas as pd
import pytest

from perfsim.errors import InputError
from perfsim.serving.trace_file import read_trace
from perfsim.serving.traffic import Trace

GOOD = {"arrival_s": [0.0, 0.25, 2.0], "prompt_tokens": [10, 20, 30], "output_tokens": [1, 2, 3]}
PREFIXES = {"prefix_id": ["system", None, "system"], "prefix_tokens": [8, None, 8]}
WRITERS = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    ".parquet": lambda frame, path: frame.to_parquet(path),
}


@pytest.fixture
def write(tmp_path):
    """Give a function that writes columns into a file of a format."""

    def to_file(table, suffix=".csv"):
        path = tmp_path / f"trace{suffix}"
        WRITERS[suffix](pd.DataFrame(table), path)
        return path

    return to_file


@pytest.mark.parametrize("suffix", WRITERS)
def test_formats_mean_the_same(write, suffix):
    """Arrivals and lengths; prefixes are numbered whatever they are called."""
    requests = read_trace(write({**GOOD, **PREFIXES}, suffix))
    for name, column in GOOD.items():
        assert getattr(requests, name).tolist() == column
    assert requests.prefix_id.tolist() == [0, -1, 0]
    assert requests.prefix_tokens.tolist() == [8, 0, 8]
    assert requests.concurrency is None


def test_a_trace_is_traffic(write):
    """It can be hastened."""
    path = write(GOOD)
    assert Trace(path).requests().arrival_s.tolist() == GOOD["arrival_s"]
    assert Trace(str(path), speed=2).requests().arrival_s.tolist() == [0.0, 0.125, 1.0]


@pytest.mark.parametrize(
    ("table", "field", "words"),
    [
        ({"arrival_s": [0.0], "prompt_tokens": [1]}, "trace.columns", "must have 'output_tokens'"),
        ({**GOOD, "prefix_id": [1, 1, 1]}, "trace.columns", "together"),
        ({**GOOD, "prompt_token": [1, 1, 1]}, "trace.columns", "did you mean 'prompt_tokens'"),
        ({**GOOD, "arrival_s": [0.0, "soon", 2.0]}, "trace.arrival_s[1]", "finite number"),
        ({**GOOD, "arrival_s": [0.0, None, 2.0]}, "trace.arrival_s[1]", "finite number"),
        ({**GOOD, "arrival_s": [-1.0, 0.0, 2.0]}, "requests.arrival_s[0]", "negative"),
        ({**GOOD, "arrival_s": [0.0, 3.0, 2.0]}, "requests.arrival_s[2]", "sort the requests"),
        ({**GOOD, "prompt_tokens": [10, 2.5, 30]}, "trace.prompt_tokens[1]", "whole number"),
        ({**GOOD, "prompt_tokens": [10, 0, 30]}, "requests.prompt_tokens[1]", "at least 1"),
        ({**GOOD, "output_tokens": [1, 2, 1e30]}, "requests.output_tokens[2]", "at most"),
        ({**GOOD, "prefix_id": [1, 1, 1], "prefix_tokens": [1, 21, 1]}, "requests.prefix_tokens[1]", "prompt"),
        ({"arrival_s": [], "prompt_tokens": [], "output_tokens": []}, "requests.arrival_s", "at least one"),
    ],
)
def test_a_bad_trace_is_refused(write, table, field, words):
    """With one fault, that names column and row."""
    with pytest.raises(InputError) as caught:
        read_trace(write(table))
    assert [fault.field for fault in caught.value.faults] == [field]
    assert words in str(caught.value)


def test_what_is_not_a_number_is_shown_as_that(write):
    """In plain words, not as an array's element."""
    with pytest.raises(InputError, match=r"trace\.arrival_s\[0\] = nan: must be a finite number"):
        read_trace(write({**GOOD, "arrival_s": [None, 0.0, 2.0]}))


def test_all_missing_columns_are_named_together(write):
    """So that nobody has to try three times."""
    with pytest.raises(InputError, match="4 faults"):
        read_trace(write({"time": [0.0]}))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("trace.xlsx", "x", "must end in one of .csv, .jsonl, .parquet"),
        ("missing.csv", None, "cannot be read: No such file"),
        ("trace.jsonl", "{not json", "is no jsonl file"),
        ("trace.parquet", "no parquet", "is no parquet file"),
        ("trace.csv", "", "is no csv file"),
        ("trace.csv", 'a,b\n"1', "is no csv file"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, name, text, words):
    """With its path."""
    path = tmp_path / name
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        read_trace(path)
    assert caught.value.faults[0].value == str(path)
