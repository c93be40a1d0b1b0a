"""A ``config.json`` of Hugging Face: which family it is of, what is not supported, and its text model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from perfsim.errors import Faults, did_you_mean
from perfsim.spec.huggingface import dense, experts
from perfsim.spec.huggingface.quantization import quantization_fields
from perfsim.spec.huggingface.reading import Reading

__all__ = ["is_hugging_face", "read_config"]

Family = Callable[[Reading], None]

_FAMILIES: dict[str, tuple[str, Family]] = {
    "CohereForCausalLM": ("cohere", dense.cohere),
    "Cohere2ForCausalLM": ("cohere2", dense.cohere2),
    "DeepseekV2ForCausalLM": ("deepseek_v2", experts.deepseek_v2),
    "DeepseekV3ForCausalLM": ("deepseek_v3", experts.deepseek_v3),
    "FalconForCausalLM": ("falcon", dense.falcon),
    "GPT2LMHeadModel": ("gpt2", dense.gpt2),
    "GPTJForCausalLM": ("gptj", dense.gptj),
    "GPTNeoXForCausalLM": ("gpt_neox", dense.gpt_neox),
    "GemmaForCausalLM": ("gemma", dense.gemma),
    "Gemma2ForCausalLM": ("gemma2", dense.gemma2),
    "Gemma3ForCausalLM": ("gemma3_text", dense.gemma3),
    "Gemma4ForCausalLM": ("gemma4_text", experts.gemma4),
    "GlmForCausalLM": ("glm", dense.glm),
    "Glm4ForCausalLM": ("glm4", dense.glm4),
    "Glm4MoeForCausalLM": ("glm4_moe", experts.glm4_moe),
    "GptOssForCausalLM": ("gpt_oss", experts.gpt_oss),
    "LlamaForCausalLM": ("llama", dense.llama),
    "MiMoForCausalLM": ("mimo", dense.mimo),
    "MiniMaxM2ForCausalLM": ("minimax_m2", experts.minimax_m2),
    "MinistralForCausalLM": ("ministral", dense.ministral),
    "MistralForCausalLM": ("mistral", dense.mistral),
    "MixtralForCausalLM": ("mixtral", experts.mixtral),
    "NemotronForCausalLM": ("nemotron", dense.nemotron),
    "OPTForCausalLM": ("opt", dense.opt),
    "PhiForCausalLM": ("phi", dense.phi),
    "Phi3ForCausalLM": ("phi3", dense.phi3),
    "PhimoeForCausalLM": ("phimoe", experts.phimoe),
    "Qwen2ForCausalLM": ("qwen2", dense.qwen2),
    "Qwen2MoeForCausalLM": ("qwen2_moe", experts.qwen2_moe),
    "Qwen3ForCausalLM": ("qwen3", dense.qwen3),
    "Qwen3MoeForCausalLM": ("qwen3_moe", experts.qwen3_moe),
}
"""For every architecture its ``model_type``, by which files without ``architectures`` are told, and its reader."""

_MULTIMODAL: dict[str, tuple[str, Family]] = {
    "Gemma3ForConditionalGeneration": ("gemma3", dense.gemma3),
    "Gemma4ForConditionalGeneration": ("gemma4", experts.gemma4),
    "KimiK25ForConditionalGeneration": ("kimi_k25", experts.deepseek_v3),
    "Mistral3ForConditionalGeneration": ("mistral3", dense.mistral),
    "Qwen2VLForConditionalGeneration": ("qwen2_vl", dense.qwen2),
    "Qwen2_5_VLForConditionalGeneration": ("qwen2_5_vl", dense.qwen2),
    "Qwen3VLForConditionalGeneration": ("qwen3_vl", dense.qwen3),
    "Qwen3VLMoeForConditionalGeneration": ("qwen3_vl_moe", experts.qwen3_moe),
}
"""Architectures that also see: their text model alone is read, from ``text_config`` where they have one."""

_UNSUPPORTED = {
    "linear attention": (
        "KimiK3ForConditionalGeneration", "KimiLinearForCausalLM", "MiniMaxM1ForCausalLM", "MiniMaxText01ForCausalLM",
        "Qwen3NextForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration", "RwkvForCausalLM",
    ),
    "Mamba layers": (
        "BambaForCausalLM", "FalconH1ForCausalLM", "FalconMambaForCausalLM", "GraniteMoeHybridForCausalLM",
        "JambaForCausalLM", "MambaForCausalLM", "Mamba2ForCausalLM", "NemotronHForCausalLM", "Zamba2ForCausalLM",
    ),
    "sparse attention that an indexer directs": (
        "DeepseekV32ForCausalLM", "DeepseekV4ForCausalLM", "GlmMoeDsaForCausalLM", "MiniMaxM3ForCausalLM",
        "MiniMaxM3SparseForConditionalGeneration",
    ),
    "attention within chunks": ("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    "layers of different shapes": ("DeciLMForCausalLM",),
    "layers with different numbers of heads, and gates on heads": (
        "Step3p5ForCausalLM", "Step3p7FlashForCausalLM",
    ),
    "sinks and KV heads that differ between layers": ("MiMoV2FlashForCausalLM",),
    "embeddings of their own for every layer": ("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"),
    "an encoder": (
        "BartForConditionalGeneration", "BertForMaskedLM", "T5ForConditionalGeneration",
        "WhisperForConditionalGeneration",
    ),
}  # fmt: skip
"""What perfsim cannot describe, and the architectures that have it."""


def is_hugging_face(table: Mapping[str, Any]) -> bool:
    """Tell a ``config.json`` of Hugging Face from a table of perfsim's own fields."""
    return "architectures" in table or "model_type" in table


def read_config(table: Mapping[str, Any], name: str, side: object = None) -> Reading:
    """Read the fields of a model from a ``config.json``.

    Parameters
    ----------
    table : mapping
        What the file holds. Keys that perfsim does not know are passed over.
    name : str
        Name of the model; ``(text)`` is added where it is the text model of a larger one.
    side : object
        What ``hf_quant_config.json`` holds, if there is one; ``quantization_config`` is believed before it.

    Returns
    -------
    Reading
        With all faults of the file in it.

    Raises
    ------
    InputError
        The architecture is not known, or not supported.
    """
    faults = Faults("model")
    architecture = _architecture(table, faults)
    faults.raise_if_any()
    is_multimodal = architecture in _MULTIMODAL
    inside = "text_config" if is_multimodal and isinstance(table.get("text_config"), Mapping) else ""
    if inside:
        table = {key: table[key] for key in _SHARED if key in table} | _given(table[inside])
    reading = Reading(table, faults.inside(inside))
    reading.fields["name"] = f"{name} (text)" if is_multimodal else name
    (_MULTIMODAL if is_multimodal else _FAMILIES)[architecture][1](reading)
    reading.take("torch_dtype", "torch_dtype", "dtype", default="bfloat16")
    reading.fields["torch_dtype"] = str(reading.fields["torch_dtype"]).removeprefix("torch.")
    source = "quantization_config" if table.get("quantization_config") is not None else "hf_quant_config"
    stored = table.get("quantization_config") if source == "quantization_config" else side
    if stored is not None:
        reading.fields |= quantization_fields(stored, _modules(reading), reading.faults.inside(source))
    return reading


_SHARED = ("torch_dtype", "dtype", "tie_word_embeddings", "quantization_config")
"""Keys that a multimodal file may hold beside its ``text_config`` and for it."""
_TYPES = {kind: name for name, (kind, _family) in (_FAMILIES | _MULTIMODAL).items()}


def _architecture(table: Mapping[str, Any], faults: Faults) -> str:
    """Name the architecture of a file; anything, with a fault, where it is not known."""
    names, kind = table.get("architectures"), table.get("model_type")
    if not names:
        if faults.choice("model_type", kind, _TYPES):
            return _TYPES[str(kind)]
        return ""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        faults.add("architectures", names, "must be a list with the name of a class")
        return ""
    known = [*_FAMILIES, *_MULTIMODAL]
    for name in names:
        if name in known:
            return str(name)
    for what, unsupported in _UNSUPPORTED.items():
        if names[0] in unsupported:
            faults.add("architectures", names[0], f"is not supported: {what}", f"supported are {', '.join(known)}")
            return ""
    faults.add("architectures", names[0], f"must be one of {', '.join(known)}", did_you_mean(names[0], known))
    return ""


def _given(table: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is null in a ``text_config`` and told beside it."""
    return {key: value for key, value in table.items() if value is not None or key not in _SHARED}


def _modules(reading: Reading) -> dict[str, list[str]]:
    """Name one linear layer of every attention, MLP and set of experts: the last, which is as large as any."""
    paths = [f"model.layers.{layer}" for layer in range(reading.layers)]
    everywhere = (bool(reading.fields.get("num_experts")),) * reading.layers
    has_experts = reading.fields.get("expert_layers") or everywhere
    sparse = [path for path, flag in zip(paths, has_experts, strict=True) if flag]
    dense_layers = [path for path, flag in zip(paths, has_experts, strict=True) if not flag]
    shared = sparse if reading.fields.get("shared_expert_intermediate_size") else []
    return {
        "attention_quantization": [f"{path}.self_attn.o_proj" for path in paths],
        "quantization": [
            *(f"{path}.mlp.down_proj" for path in dense_layers), *(f"{path}.{reading.shared_path}" for path in shared),
        ],
        "expert_quantization": [f"{path}.{reading.expert_path}" for path in sparse],
    }  # fmt: skip
