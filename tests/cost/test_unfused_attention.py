"""Attention without a fused kernel: what it adds, and where there is one."""

import dataclasses

import numpy as np
import pytest

import perfsim
from perfsim.cost.attention import attention_cost
from perfsim.cost.unfused_attention import has_fused_kernel, score_bytes, unfused_attention_seconds
from perfsim.ops.operators import Attention


def prefill(**changes):
    """Give the attention of 10,000 tokens with two heads of 512."""
    sizes = {"sequences": 1, "query_tokens": 10_000, "context_tokens": 10_000, "num_heads": 2, "num_kv_heads": 2}
    return Attention(**{**sizes, "head_dim": 512, "dtype": "bf16", "kv_dtype": "bf16", **changes})


def test_it_is_three_kernels_by_hand(documented):
    """Each takes the longer of its FLOP and its bytes; the scores pass memory four times."""
    work, chip, reached = prefill(), documented.accelerator, documented.efficiency
    pairs, matrix = 2 * 10_000**2, 2 * 10_000 * 512 * 2
    scores = 2 * pairs
    products = [2 * pairs * 512 / (reached.matmul * chip.peak_flop_per_s["bf16"]) for _ in range(2)]
    rate = reached.memory * chip.memory_bytes_per_s
    kernels = [
        max(products[0], (2 * matrix + scores) / rate),
        max(5 * pairs / chip.vector_flop_per_s, 2 * scores / rate),
        max(products[1], (scores + 2 * matrix) / rate),
    ]
    assert score_bytes(work) == scores
    assert unfused_attention_seconds(documented, work) == pytest.approx(sum(kernels) + 3 * reached.kernel_s)


def test_it_takes_longer_than_the_speed_of_light_of_fused_attention(cluster):
    """On every device, in prefill and in decode, for arrays of sizes."""
    for tokens in (1, np.array([64, 2048, 10_000])):
        work = prefill(query_tokens=tokens, num_heads=16)
        slower = unfused_attention_seconds(cluster, work)
        assert np.shape(slower) == np.shape(tokens)
        assert (slower > attention_cost(cluster, work).roofline_s).all()


def test_heads_of_every_size_pay_for_all_pairs(documented):
    """Masked pairs too: a causal mask saves nothing, nor does a window."""
    whole = unfused_attention_seconds(documented, prefill(causal=False))
    assert unfused_attention_seconds(documented, prefill(causal=True)) == whole
    assert unfused_attention_seconds(documented, prefill(causal=True, window=128)) == whole
    assert unfused_attention_seconds(documented, prefill(num_heads=4)) > whole


@pytest.mark.parametrize(("head_dim", "fused"), [(64, True), (128, True), (256, True), (257, False), (512, False)])
def test_where_there_is_a_fused_kernel(h100, documented, head_dim, fused):
    """Among the measured ones, and without measurements among the widely used ones; prefill and decode alike."""
    for tokens in (1, 4096):
        work = prefill(query_tokens=tokens, head_dim=head_dim)
        assert has_fused_kernel(h100, work) == fused
        assert has_fused_kernel(documented, work) == fused


def test_where_there_is_none_the_price_is_extrapolated(library):
    """Nobody takes a head without a kernel for measured, whatever the library."""
    for tokens in (1, 4096):
        work = prefill(query_tokens=tokens)
        if not has_fused_kernel(library, work):
            assert attention_cost(library, work).source == "extrapolated"


def test_latent_attention_has_kernels_of_its_own():
    """DeepSeek's decode is not unfused because its vectors are long."""
    work = Attention(8, 1, 4096, 128, 1, 576, "bf16", "bf16", value_dim=512, latent=True)
    cluster = perfsim.load_cluster("dgx-h100")
    assert has_fused_kernel(cluster, work)
    others = {key: table for key, table in cluster.coefficients.items() if not key.startswith("latent")}
    assert not has_fused_kernel(dataclasses.replace(cluster, coefficients=others), work)
