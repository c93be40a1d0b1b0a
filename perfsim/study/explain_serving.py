"""A served load in plain sentences: what bounds it, where time is lost, how full the cache is, and what would help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from perfsim.serving.frames import host_ps, span_s
from perfsim.serving.results import ServeResult
from perfsim.study.explanation import Explanation, Finding
from perfsim.study.serving_changes import ServingOption, few_requests, served_again, serving_changes
from perfsim.study.serving_figures import num_gpus
from perfsim.units import format_seconds, seconds

__all__ = ["explain_serving"]

_FULL = 0.98  # of a cache that is full but for a few blocks
_MOST_ROWS = 1000  # from which on runs of alike steps, for which sums are the same, share a row
_WORTH_PERCENT = 1.0  # change of the mean latency below which nothing is said to help

_SHOWN = 0.01

_ENDLESS = "a KV cache without end"
_IDEAL: dict[str, dict[str, Any]] = {
    _ENDLESS: {"engine.kv_blocks": None},
    "a host that costs nothing": {"engine.times": "none"},
}
"""What nobody can have, simulated to say what the lack of it costs."""

_BOUNDS = {
    "decode": "Steps of decodes bound the service",
    "prompts": "Steps with prompts bound the service",
    "host": "The engine's host bounds the service",
    "cache": "The KV cache bounds the service",
    "queue": "Queueing bounds the service",
}


class _Shares(NamedTuple):
    """Where the time goes, all as shares: of the mean request's latency, and of the time of the steps."""

    waiting: float
    prompt: float
    further: float
    decode_steps: float
    prompt_steps: float
    host: float
    decodes: float


def explain_serving(result: ServeResult) -> Explanation:
    """Explain a served load; see `perfsim.explain`."""
    few = few_requests(result)
    options = serving_changes(result)
    again = {words: served_again(few, changes) for words, changes in _IDEAL.items()}
    ideal = {words: one for words, one in again.items() if one is not None}
    endless = ideal.get(_ENDLESS, few)
    findings = [
        *_bound(result, max(1 - endless.latency_s / few.latency_s, 0.0)),
        *_lost(result, ideal, few),
        *_cache(result),
        *_helps_most([option for option in options if option.kind != "devices"], "on the same GPUs"),
        *_helps_most([option for option in options if option.kind == "devices"], "with more GPUs"),
    ]
    if few is not result:
        text = f"Changes are simulated with the first {len(few.sent):,} requests, served to their end."
        findings.append(Finding("change", text, {"requests": len(few.sent)}))
    first, _, _ = str(result).partition("\n")
    return Explanation(first, tuple(findings), options)


def _bound(result: ServeResult, cache: float) -> Iterator[Finding]:
    """Say what the largest share of the mean latency is due to, and what the replicas do."""
    shares = _shares(result)
    waiting = max(shares.waiting - cache, 0.0)
    running = 1 - waiting - cache
    weights = {
        "decode": running * shares.decode_steps, "prompts": running * shares.prompt_steps,
        "host": running * shares.host, "cache": cache, "queue": waiting,
    }  # fmt: skip
    bound = max(weights, key=lambda name: weights[name])
    of_cache = f", and {cache:.1%} is due to the size of the KV cache" if cache > _SHOWN else ""
    yield Finding(
        "bound",
        f"{_BOUNDS[bound]}: of the mean latency of {format_seconds(result.latency_s)}, {shares.waiting:.1%} is waiting "
        f"for the first step, {shares.prompt:.1%} the prompt and {shares.further:.1%} the further tokens{of_cache}. Of "
        f"the time of the steps, {shares.decode_steps:.1%} is that of the GPUs in steps of decodes alone, "
        f"{shares.prompt_steps:.1%} in steps with prompts, and {shares.host:.1%} that of the engine's host.",
        {f"{name}_share": value for name, value in (shares._asdict() | {"cache": cache}).items() if name != "decodes"},
    )
    busy = float(result.replicas["utilization"].mean())
    text = f"The replicas are in a step for {busy:.1%} of the time"
    if shares.decodes:
        text += f", and a step of decodes alone has {shares.decodes:.3g} sequences on average"
    yield Finding("bound", f"{text}.", {"utilization": busy, "decodes": shares.decodes})
    if result.sent.concurrency is None:
        word = "drains" if result.drains else "does NOT drain: requests come faster than they are served"
        yield Finding("bound", f"The load {word}.", {"drains": float(result.drains)})


def _shares(result: ServeResult) -> _Shares:
    """Split latencies by what requests wait for, and steps by what they hold."""
    outcome = result.outcome
    known = outcome.finish_ps >= 0
    waited, prompt, further = (
        span_s(start, end)[known].sum()
        for start, end in (
            (outcome.sent_ps, outcome.admitted_ps), (outcome.admitted_ps, outcome.first_ps),
            (outcome.first_ps, outcome.finish_ps),
        )
    )  # fmt: skip
    latency = max(waited + prompt + further, 1e-12)
    steps = result.log(_MOST_ROWS)
    with_prompts = steps["chunks"] > 0
    host_s, took_s = seconds(host_ps(steps, result.service)), seconds(steps["end"] - steps["start"])
    busy = max(took_s.sum(), 1e-12)
    of_prompts, of_decodes = host_s[with_prompts].sum(), host_s[~with_prompts].sum()
    alone = steps[~with_prompts]
    return _Shares(
        waited / latency, prompt / latency, further / latency,
        (took_s[~with_prompts].sum() - of_decodes) / busy, (took_s[with_prompts].sum() - of_prompts) / busy,
        (of_prompts + of_decodes) / busy,
        float(np.average(alone["sequences"], weights=alone["steps"])) if len(alone) else 0.0,
    )  # fmt: skip


def _lost(result: ServeResult, ideal: dict[str, ServeResult], few: ServeResult) -> Iterator[Finding]:
    outcome = result.outcome
    waits = span_s(outcome.sent_ps, outcome.admitted_ps)
    queue_s = float(np.nanmean(waits)) if np.isfinite(waits).any() else float("nan")
    share = queue_s / result.ttft_s
    yield Finding(
        "lost",
        f"Requests wait {format_seconds(queue_s)} for their first step on average, {share:.1%} of their TTFT of "
        f"{format_seconds(result.ttft_s)}.",
        {"queue_s": queue_s, "queue_share_of_ttft": share},
    )
    preempted = int(outcome.preemptions.sum())
    if preempted:
        of_them = float((outcome.preemptions > 0).mean())
        text = f"There are {preempted:,} preemptions, of {of_them:.1%} of the requests: the KV cache is too small."
        yield Finding("lost", text, {"preemptions": preempted, "preempted_share": of_them})
    for words, without in ideal.items():
        if without.latency_s < few.latency_s:
            change = 100 * (without.latency_s / few.latency_s - 1)
            yield Finding(
                "lost",
                f"With {words} the mean latency would be {format_seconds(without.latency_s)} ({change:+.1f} %), TTFT "
                f"{format_seconds(without.ttft_s)} and TPOT {format_seconds(without.tpot_s)}.",
                {"latency_s": without.latency_s, "change_percent": change},
            )


def _cache(result: ServeResult) -> Iterator[Finding]:
    blocks, most = result.service.engines[-1].kv_blocks, result.outcome.most_blocks.max()
    if blocks is None:
        yield Finding("memory", f"The KV cache has no limit; at most {most:,} blocks are in use.", {"blocks": most})
    else:
        share = result.most_kv_share
        full = ", so requests wait for room" if share > _FULL else ""
        owner = "lane" if result.service.lanes > 1 else "replica"
        text = f"At its peak {share:.1%} of the KV cache of a {owner} is in use{full}; it has {blocks:,} blocks."
        yield Finding("memory", text, {"most_kv_share": share, "kv_blocks": blocks})
    if result.sent.prefix_index[1]:
        hits = float(result.outcome.cached_prompt_tokens.sum() / result.sent.prompt_tokens.sum())
        text = f"The prefix cache spares {hits:.1%} of the prompts' tokens."
        yield Finding("memory", text, {"cached_share": hits})


def _helps_most(options: list[ServingOption], where: str) -> Iterator[Finding]:
    """Name the best of some changes and what a GPU then gives, or say that none helps."""
    if not options:
        return
    best = options[0]
    numbers = {"latency_s": best.after.latency_s, "change_percent": best.extra_percent, "options": len(options)}
    if best.extra_percent > -_WORTH_PERCENT:
        text = (
            f"No single change {where} helps by {_WORTH_PERCENT:g} %: of {len(options)} that are possible {best} is "
            f"the best, with {best.extra_percent:+.1f} % of the mean latency."
        )
        yield Finding("change", text, numbers)
        return
    text = f"Of {f'{len(options)} ' * (len(options) > 1)}single changes {where} {_effect(best)}"
    before, after = (one.tokens_per_s / num_gpus(one) for one in (best.before, best.after))
    if np.isfinite(after):
        text += f" A GPU then gives {after:,.1f} tokens/s instead of {before:,.1f}."
        numbers["tokens_per_s_per_gpu"] = after
    yield Finding("change", text, numbers)


def _effect(option: ServingOption) -> str:
    before, after = option.before, option.after
    return (
        f"{option} ({option.reason}) helps most: the mean latency of {format_seconds(before.latency_s)} becomes "
        f"{format_seconds(after.latency_s)} ({option.extra_percent:+.1f} %), TTFT {format_seconds(after.ttft_s)} "
        f"instead of {format_seconds(before.ttft_s)}, TPOT {format_seconds(after.tpot_s)} instead of "
        f"{format_seconds(before.tpot_s)}."
    )
