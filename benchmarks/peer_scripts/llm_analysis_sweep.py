"""Time llm-analysis on prefills of the reference model, TP8 x PP2 on H100.

`inference` is its call that gives, as a sweep of perfsim does, the time, the tokens a second and the memory of a point.
It counts the memory of the whole batch at once and refuses what does not fit, so memory is made large: all points are
evaluated to the end.
"""

from dataclasses import replace

from llm_analysis.analysis import LLMAnalysis
from llm_analysis.config import DtypeConfig, ModelConfig, ParallelismConfig, get_gpu_config_by_name
from timed_sweep import report

ANALYSIS = LLMAnalysis(
    ModelConfig("llm-16l-8192", num_layers=16, n_head=16, hidden_dim=8192, vocab_size=0, ffn_embed_dim=32768),
    replace(get_gpu_config_by_name("h100-sxm-80gb"), mem_per_GPU_in_GB=1e9),
    DtypeConfig(weight_bits=16, activation_bits=16),
    ParallelismConfig(tp_size=8, pp_size=2, sp_size=1),
    flops_efficiency=0.7,
)


def makespan_s(batch: int, sequence: int) -> float:
    """Predict the time of one prefill; one token is the least that can be generated after it."""
    summary = ANALYSIS.inference(batch, sequence, num_tokens_to_generate=1, use_kv_cache=False)
    return summary["prefill_latency"]


if __name__ == "__main__":
    report("llm-analysis", makespan_s)
