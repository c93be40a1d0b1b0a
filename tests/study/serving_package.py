"""A made-up package of measured serving runs, whose measurements are simulations with known times of the engine."""

import itertools
import json

import pandas as pd

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816,
    "num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 8, "vocab_size": 32000,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16",
}  # fmt: skip


def package_rows(measured=None):
    """Give the rows of the made-up ``silicon_sample.csv``: two GPUs, two prompt lengths, three concurrencies."""
    table = pd.DataFrame([
        {
            "id": f"{system}-{prompt}-{concurrency}",
            "silicon_data_source": f"made up; silicon_concurrency={concurrency}; measured=2025-10-29",
            "backend": "trtllm", "backend_version": None, "model_path": "made/up", "system": system,
            "precision": "fp8", "mode": "agg", "isl": prompt, "osl": 64, "gemm_quant_mode": "fp8",
            "moe_quant_mode": None, "tp_size": 1.0, "moe_ep_size": None,
        }
        for system, prompt, concurrency in itertools.product(("h100_sxm", "h200_sxm"), (256, 1024), (2, 8, 16))
    ])  # fmt: skip
    for name in ("ttft", "tpot"):
        table[f"silicon_{name}_ms"] = 1.0 if measured is None else [1e3 * row[name == "tpot"] for row in measured]
    return table


def write_package(folder, rows, *, use_ttft=1):
    """Write the package and the list of its rows; give the folder of its tables and the list."""
    tables, configs = folder / "systems" / "data", folder / "model_configs"
    tables.mkdir(parents=True, exist_ok=True)
    configs.mkdir(exist_ok=True)
    (configs / "made--up_config.json").write_text(json.dumps(CONFIG))
    rows.to_csv(tables.parent / "silicon_sample.csv", index=False)
    listed = rows[["id"]].assign(protocol="P1", use_ttft=use_ttft)
    listed.to_csv(folder / "rows.csv", index=False)
    return tables, folder / "rows.csv"
