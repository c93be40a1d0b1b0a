"""What objects show in a notebook: sound HTML, escaped, in the colours of the page, with figures for people."""

import dataclasses
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim import html
from perfsim.ops.checks import Check, VerificationReport
from perfsim.serving.costs import RooflineCosts
from perfsim.serving.engine_times import EngineTimes
from perfsim.serving.results import serve_requests
from perfsim.serving.run import Service

VOID = {"br", "hr", "img"}


class Reader(HTMLParser):
    """Reads HTML whose elements are all closed, in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words, self.styles = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Note an element and its style."""
        self.tags.append(tag)
        self.styles += [value for name, value in attrs if name in {"style", "fill", "color", "bgcolor"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Note an element that closes itself."""
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        """Take the innermost open element, which must be this one."""
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Note a text."""
        self.words.append(data)

    @property
    def text(self):
        """All texts."""
        return " ".join(" ".join(self.words).split())


def read(shown):
    """Read what an object shows; everything that it opens is closed."""
    reader = Reader(shown._repr_html_())
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def result(improved):
    """Give the result of a small batch."""
    return perfsim.simulate(improved.with_(batch_size=8))


@pytest.fixture(scope="module")
def shown(result):
    """Give one object of every kind that shows itself."""
    scenario = result.scenario
    ethernet = perfsim.NetworkTier("ethernet", bytes_per_s=25e9, latency_s=5e-6)
    joined = perfsim.join_clusters(scenario.cluster, perfsim.load_cluster("l40s-pcie-8x"), tier=ethernet)
    comparison = perfsim.compare({"one": result, "two": scenario.with_(keep_kv_cache=True)}, baseline="one")
    return {
        "scenario": scenario,
        "cluster": scenario.cluster,
        "joined": joined,
        "model": scenario.model,
        "experts": perfsim.load_model("qwen3-30b-a3b"),
        "result": result,
        "comparison": comparison,
        "graph": result.dag,
        "report": result.dag.verify(),
        "what_if": perfsim.what_if(scenario, nvlink=1.5),
        "versions": perfsim.show_versions(),
        **served(),
    }


def served():
    """Give a served load and what it is made of."""
    deployment = perfsim.Deployment(replicas=2, prefill_replicas=1, transfer_latency_s=2e-3)
    engine = perfsim.Engine("trtllm", kv_blocks=900, times=EngineTimes(step_s=222e-6, source="a guess"))
    service = Service.of(RooflineCosts(), engine, deployment)
    traffic = perfsim.ClosedLoop(concurrency=4, prompt_tokens=300, output_tokens=20, ramp_s=0.5)
    return {
        "served": serve_requests(service, traffic.requests()),
        "engine": service.engines[0],
        "deployment": deployment,
        "closed": traffic,
        "open": perfsim.OpenLoop(requests_per_s=2.5, prompt_tokens=1024, output_tokens=128),
        "bursts": perfsim.Bursts(size=3, interval_s=0.25, prompt_tokens=1024, output_tokens=128),
        "trace": perfsim.Trace("arrivals <b>.csv", speed=2.0),
    }


FIGURES = {
    "scenario": ["8 of 1 sequences", "prefill of 8 sequences of 10,000 tokens", "2 stages of 8 devices", "causal"],
    "cluster": ["16 × H100 SXM5 80GB", "85.52 GB at 3.35 TB/s", "bf16 989.4 TFLOP/s", "450 GB/s", "790 ns"],
    "joined": ["16 x H100 SXM5 80GB", "8 × L40S 48GB", "ethernet"],
    "model": ["12.89 billion parameters", "16 heads of 512", "524.3 kB a token"],
    "experts": ["128 of 768, 8 for each token, in 48 layers", "3.353 billion for a token"],
    "result": ["tokens/s", "✓ fits: ", " of 85.52 GB a GPU", "matmul time", "80 % range"],
    "comparison": ["speed-up", "1.00x", "Throughput: "],
    "graph": ["198 operators, 261 edges, 16 devices", "0-7", "8-15", "805.4 M"],
    "report": ["5 of 5 checks hold", "✓ holds", "198 operators, 261 edges, no cycle"],
    "what_if": ["NVLink bandwidth x 1.5", "before", "after"],
    "versions": ["perfsim", perfsim.__version__, "numpy"],
    "served": ["40 requests on 1 for prompts and 2 replicas of trtllm", "ttft_p99_s", "tokens/s", "99.0"],
    "engine": ["token_budget 8,192 trtllm's own", "kv_blocks 900", "Its host", "step_s 222 us", "a guess"],
    "deployment": ["1 for prompts and 2 behind a router", "round-robin", "transfer_latency_s 2 ms"],
    "closed": ["A closed loop", "concurrency 4", "ramp_s 500 ms", "prompt_tokens 300"],
    "open": ["An open loop", "requests_per_s 2.5", "output_tokens 128"],
    "bursts": ["Bursts", "size 3", "interval_s 250 ms"],
    "trace": ["A trace", "path arrivals <b>.csv", "speed 2"],
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_shown(shown, name):
    """The main figures stand there with their units."""
    text = read(shown[name]).text
    for figure in FIGURES[name]:
        assert figure in text, text


@pytest.mark.parametrize("name", FIGURES)
def test_colours_are_those_of_the_page(shown, name):
    """No colour and no background is fixed: light and dark themes are both legible."""
    reader = read(shown[name])
    assert reader.styles
    for style in reader.styles:
        assert not re.search(r"#[0-9a-fA-F]{3,8}\b|(rgb|hsl)a?\(|[ :](white|black|gr[ae]y|red|green|blue)\b", style), (
            style
        )
        for colour in re.findall(r"(?<![-\w])color:([^;]+)", style):
            assert colour == "inherit"
        for background in re.findall(r"background[-\w]*:([^;]+)", style):
            assert background == "none"
    assert not {"style", "script", "link"} & set(reader.tags)


@pytest.mark.parametrize("name", FIGURES)
def test_plain_text_is_short(shown, name):
    """The plain form is a few lines, not a dump of fields."""
    assert 0 < len(repr(shown[name]).splitlines()) <= 30
    assert len(repr(shown[name])) < 2500


def test_every_text_is_escaped(improved):
    """A name that is HTML stays a text."""
    evil = "<script>alert('x')</script>&"
    model = dataclasses.replace(improved.model, name=evil)
    cluster = dataclasses.replace(improved.cluster, name=evil, title=evil)
    scenario = improved.with_(model=model, cluster=cluster, batch_size=4)
    result = perfsim.simulate(scenario)
    report = VerificationReport((Check("acyclic", evil, passed=False, evidence=evil, faults=(evil,), gaps=(evil,)),))
    comparison = perfsim.compare({evil: result}, baseline=evil)
    for shown in (
        model,
        cluster,
        scenario,
        result,
        result.dag,
        report,
        comparison,
    ):
        reader = read(shown)
        assert "script" not in reader.tags
        assert "<script>" in reader.text


def test_verdicts_are_words_and_symbols(improved, shown):
    """What does not fit, does not hold or cannot be told is said in words."""
    kept = perfsim.simulate(improved.with_(keep_kv_cache=True))
    assert "✗ does not fit: 340.3 GB of 85.52 GB a GPU" in read(kept).text
    checks = (
        Check("a", "first", passed=False, evidence="e", faults=("wrong",)),
        Check("b", "second", passed=False, evidence="e", gaps=("not said",)),
        Check("c", "third", passed=True, evidence="e"),
    )
    report = VerificationReport(checks)
    assert [check.verdict for check in checks] == ["does not hold", "cannot be told", "holds"]
    text = read(report).text
    assert "Verification: 1 of 3 checks hold, 1 cannot be told" in text
    assert all(
        words in text for words in ("✗ does not hold", "? cannot be told", "✓ holds", "1 fault wrong", "not said")
    )
    assert str(report).splitlines()[1:] == [
        "[FAIL] first: e", "       - wrong", "[ ?? ] second: e", "       ? not said", "[pass] third: e",
    ]  # fmt: skip
    assert report.to_frame()["verdict"].tolist() == [check.verdict for check in checks]
    assert not report.passed


def test_a_bar_stays_inside_its_frame():
    """Shares outside of 0 to 1 are drawn at the ends."""
    widths = [re.findall(r'rect width="([\d.]+)"', html.bar(share))[1] for share in (-1, 0.25, 7)]
    assert widths == ["0.0", "30.0", "120.0"]


def test_a_frame_has_units():
    """Columns are written in the unit that their name ends in."""
    columns = {"ttft_s": [0.5], "kv_bytes": [2e9], "ok": [True], "name": ["<a>"], "tpot_s": [float("nan")]}
    reader = Reader(html.frame(pd.DataFrame(columns, index=["p50"])))
    assert [text for text in ("500 ms", "2 GB", "yes", "<a>", "p50", "–") if text not in reader.text] == []


@given(st.text())
def test_any_text_is_escaped_once(text):
    """What goes in comes out of a reader; what is already HTML is left as it is."""
    reader = Reader(html.stack(text, html.notes([text]), html.fold("f", [text]), html.verdict(None, text)))
    assert reader.open == []
    assert set(reader.tags) <= {"div", "details", "summary", "ul", "li", "span", "strong"}
    assert html.stack(html.notes(["a & b"])).count("&amp;") == 1
