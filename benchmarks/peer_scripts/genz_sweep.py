"""Time GenZ on prefills of the reference model, TP8 x PP2 on H100.

It counts the KV cache of a microbatch of half the batch and refuses what does not fit, so memory is made large: all
points are evaluated to the end.
"""

import tempfile
from functools import partial

from GenZ import ModelConfig, create_full_prefill_model, get_model_df, prefill_moddeling
from Systems.system_configs import system_configs
from timed_sweep import report

MODEL = ModelConfig(
    model="llm-16l-8192",
    vocab_size=0,
    hidden_size=8192,
    intermediate_size=32768,
    num_decoder_layers=16,
    num_attention_heads=16,
)
PREFILL = partial(
    prefill_moddeling,
    model=MODEL,
    system_name=system_configs["H100_GPU"] | {"Memory_size": 1e9},
    bits="bf16",
    tensor_parallel=8,
    pipeline_parallel=2,
    parallelism_heirarchy="TP{8}_EP{1}_PP{2}",
)


def makespan_s(batch: int, sequence: int) -> float:
    """Predict the time of one prefill."""
    return batch / PREFILL(batch_size=batch, input_tokens=sequence)["Throughput"]


def write_to(folder: str) -> None:
    """Move the files that each call leaves behind from one folder for all users to a given one."""
    for function in (create_full_prefill_model, get_model_df):
        defaults = function.__defaults__
        function.__defaults__ = tuple(folder if str(value).startswith("/tmp/genz") else value for value in defaults)  # noqa: S108


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_to(folder)
        report("genz-llm", makespan_s)
