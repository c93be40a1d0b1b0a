"""The page of a served load: every step or an honest sum of neighbours, and what a reader needs in words."""

import dataclasses
import html
import re

import numpy as np
import pytest

import perfsim
from perfsim.serving.costs import RooflineCosts
from perfsim.serving.results import OverloadError, serve_requests
from perfsim.serving.run import Service
from perfsim.study.page import served_steps, served_table, served_words


def text_of(page):
    """Give what a page says, without scripts and tags."""
    visible = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", visible)).split())


@pytest.fixture(scope="module")
def result():
    """Give a load on separate pools, whose caches are small."""
    deployment = perfsim.Deployment(replicas=2, prefill_replicas=1)
    service = Service.of(RooflineCosts(), perfsim.Engine("vllm", kv_blocks=300), deployment)
    traffic = perfsim.OpenLoop(requests_per_s=15, num_requests=120, prompt_tokens=900, output_tokens=120)
    return serve_requests(service, traffic.requests())


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    """Give its page."""
    return perfsim.write_page(result, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


def test_few_steps_are_kept_as_they_are(result):
    """Column by column, replica by replica."""
    for replica, columns in enumerate(served_steps.kept_steps(result)):
        steps = result.steps[result.steps["replica"] == replica]
        names = {"start": "start_s", "end": "end_s", "steps": "steps", "decodes": "decodes", "tokens": "prompt_tokens",
                 "prompts": "prompts", "prompt_tokens": "prompt_tokens", "waiting": "waiting", "blocks": "kv_blocks",
                 "running": "running"}  # fmt: skip
        for name, column in names.items():
            np.testing.assert_array_equal(columns[name], steps[column])
        np.testing.assert_allclose(columns["host"], steps["host_s"], rtol=1e-6)


def test_neighbours_are_put_together_without_loss(result, monkeypatch):
    """Sums stay what they are, means are over time, and the ends are the runs of alike steps."""
    monkeypatch.setattr(served_steps, "_LEAST", 24)
    most = 120
    kept = served_steps.kept_steps(result, most)
    assert sum(len(columns["start"]) for columns in kept) < 1.5 * most < len(result.steps)
    log, merged = result.log(most), 0
    log = log[np.argsort(log["start"])]
    for replica, columns in enumerate(kept):
        steps = result.steps[result.steps["replica"] == replica]
        assert columns["steps"].sum() == steps["steps"].sum()
        assert columns["prompt_tokens"].sum() == steps["prompt_tokens"].sum()
        for name, column in (("decodes", "decodes"), ("tokens", "prompt_tokens")):
            over_time = ((columns["end"] - columns["start"]) * columns[name]).sum()
            assert over_time == pytest.approx(((steps["end_s"] - steps["start_s"]) * steps[column]).sum(), rel=1e-5)
        for name, column in (("blocks", "kv_blocks"), ("waiting", "waiting"), ("running", "running")):
            assert columns[name].max() == steps[column].max()
        assert (columns["start"][1:] >= columns["end"][:-1]).all()
        runs = log["steps"][log["replica"] == replica]
        assert columns["steps"][:5].tolist() == runs[:5].tolist()
        assert columns["steps"][-5:].tolist() == runs[-5:].tolist()
        merged += len(runs) - len(columns["steps"])
    assert merged > 0


def test_a_replica_without_steps_is_an_empty_lane():
    """And the page has it."""
    service = Service.of(RooflineCosts(), perfsim.Engine("vllm"), perfsim.Deployment(replicas=3))
    alone = serve_requests(service, perfsim.Bursts(size=1, prompt_tokens=100, output_tokens=5).requests())
    assert [len(columns["start"]) for columns in served_steps.kept_steps(alone)] == [5, 0, 0]


def test_the_page_says_what_the_result_says(page, result):
    """Figures, percentiles, findings, inputs."""
    text = text_of(page)
    for fact in served_words.facts(result):
        assert f"{fact.name} {fact.text} {fact.note}" in text
    for finding in perfsim.explain(result).findings:
        assert " ".join(str(finding).split()) in text
    for name, cells in served_words.percentiles(result):
        assert " ".join([name, *cells]) in text
    for part in ("token_budget 8,192", "kv_blocks 300", "prefill_replicas 1", "arrivals", "120 rows shown, of all 120"):
        assert part in text


def test_the_page_asks_for_nothing_from_outside(page):
    """No address of a script, a style, a picture or a font."""
    without_scripts = re.sub(r"<script\b.*?</script>", " ", page, flags=re.DOTALL)
    assert re.findall(r"(?:src|href)=\"(?!#|data:)", without_scripts) == []
    assert "url(" not in without_scripts


def test_of_many_requests_the_slowest_are_listed(result, monkeypatch):
    """And the page says how many of how many."""
    monkeypatch.setattr(served_table, "MOST_ROWS", 40)
    monkeypatch.setattr(served_table, "_WORST", 10)
    table, listed = served_table.request_table(result, "served")
    assert listed == "40 of the 120 requests: the 10 with the longest TTFT, and others at even distances"
    (source,) = {model for model in table.references() if type(model).__name__ == "ColumnDataSource"}
    shown = source.data["request"].tolist()
    assert len(set(shown)) == len(shown) == 40
    assert shown == sorted(shown)
    assert set(result.requests["ttft_s"].nlargest(10).index) <= set(shown)


def test_a_load_that_does_not_drain_has_a_page(tmp_path):
    """Of what came of it until then, which begins with that."""
    service = Service.of(RooflineCosts(), perfsim.Engine("vllm", max_sequences=2))
    traffic = perfsim.OpenLoop(requests_per_s=20, num_requests=100, prompt_tokens=900, output_tokens=100)
    with pytest.raises(OverloadError) as caught:
        serve_requests(service, traffic.requests(), limit_s=3)
    text = text_of(perfsim.write_page(caught.value.partial, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "The load does NOT drain: requests come faster than they are served" in text
    assert "of 100 ended" in text


def test_the_inputs_of_a_scenario_are_named(result):
    """Model, plan and kernels; engines that differ are listed apart."""
    scenario = perfsim.Scenario(
        perfsim.load_cluster("dgx-h100"), perfsim.load_model("llama-3.1-8b"), perfsim.Plan(), perfsim.Workload()
    )
    few = perfsim.Bursts(size=2, prompt_tokens=100, output_tokens=5)
    parts = {part.name: dict(part.rows) for part in served_words.inputs(perfsim.serve(scenario, few, perfsim.Engine()))}
    assert parts["Scenario"]["model"] == scenario.model.name
    assert parts["Traffic"]["arrivals"] == "all at once"
    assert parts["Its host"]["source"] == perfsim.Engine().host.source
    engines = (perfsim.Engine("vllm", kv_blocks=300), perfsim.Engine("trtllm", kv_blocks=300))
    apart = dataclasses.replace(result, service=dataclasses.replace(result.service, engines=engines))
    names = [part.name for part in served_words.inputs(apart)]
    assert names[2:6] == ["Engine of prompts", "Its host of prompts", "Engine of decodes", "Its host of decodes"]
