"""The page as a file: whole or not at all, without a network, with what a reader needs in words."""

import dataclasses
import html
import json
import re
from html.parser import HTMLParser

import pytest

import perfsim
from perfsim.study.page import document, words
from perfsim.study.page.plans import comparison_rows

KINDS_OF_PARTS = ("timeline", "balance", "capacity", "operators", "graph")


def text_of(page):
    """Give what a page says, without scripts and tags."""
    visible = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", visible)).split())


def items_of(page):
    """Give the pictures of a page by their places."""
    begin = r'<script type="application/json" class="item" data-place="([^"]+)">'
    return {place: json.loads(text) for place, text in re.findall(f"{begin}(.*?)</script>", page, re.DOTALL)}


class Tags(HTMLParser):
    """The tags of a page, as a browser finds them: what stands inside scripts is none."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Note a tag with its attributes."""
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def page(small_result, tmp_path_factory):
    """Give the page of a small result."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert perfsim.write_page(small_result, path) == path
    return path.read_text(encoding="utf-8")


def test_the_page_has_every_part(page):
    """A place for each picture, and a picture for each place."""
    items = items_of(page)
    assert sorted(items) == sorted(f"plan-0-{kind}" for kind in KINDS_OF_PARTS)
    for place, item in items.items():
        assert f'<div id="{place}" class="figure">' in page
        assert item["target_id"] == place


def test_the_page_says_what_the_result_says(page, small_result):
    """Figures, findings, the five checks and the claims."""
    text = text_of(page)
    for fact in words.facts(small_result):
        assert fact.text in text
    for finding in small_result.memory_findings:
        assert " ".join(finding.split()) in text
    for check in small_result.dag.verify().checks:
        assert check.claim in text
        assert check.evidence in text
    assert "The KV cache of all tokens can be kept" in text


def test_the_page_asks_for_nothing_from_outside(page):
    """No address of a script, a style, a picture or a font."""
    addresses = [of.get(name) for _, of in Tags(page).found for name in ("src", "href", "data", "action") if name in of]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style


def test_a_comparison_has_its_own_part(comparison, tmp_path):
    """A table and bars, then each plan; at most 8 MB."""
    path = perfsim.write_page(comparison, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 8e6
    assert {"comparison-kinds", "comparison-latency", "plan-0-graph", "plan-2-timeline"} <= items_of(text).keys()
    said = text_of(text)
    for finding in comparison.findings:
        assert finding in said
    for label, cells in comparison_rows(comparison):
        assert f"{label} {cells[0][0]}" in said
    assert "Better throughput than seed-layerwise-pipelined" in said


def test_the_best_plan_of_each_row_is_marked(comparison):
    """The fastest, and the soonest, which is another."""
    rows = dict(comparison_rows(comparison))
    assert [best for _, best in rows["makespan"]] == [False, True, False]
    assert [best for _, best in rows["first sequence done after"]] == [False, False, True]


def test_what_a_plan_does_not_have_is_left_out(improved):
    """A decode step has no time to first token, and a prefill no time per output token."""
    decode = improved.with_(phase="decode", keep_kv_cache=True, batch_size=16)
    prefill = improved.with_(batch_size=16)
    rows = dict(comparison_rows(perfsim.compare({"prefill": prefill, "decode": decode}, baseline="prefill")))
    first, later = (rows[f"time {what} token, mean over sequences"] for what in ("to first", "per output"))
    assert [bool(text) for text, _ in first] == [True, False]
    assert [bool(text) for text, _ in later] == [False, True]
    assert "time per output token, mean over sequences" not in dict(
        comparison_rows(perfsim.compare({"prefill": prefill}, baseline="prefill"))
    )


def test_the_baseline_claims_no_speed(comparison):
    """It is what the others claim to be faster than."""
    assert not [claim for claim in words.claims(comparison, "seed-baseline") if claim.name.startswith("Better")]
    assert len([claim for claim in words.claims(comparison, "seed-improved") if claim.name.startswith("Better")]) == 4


def test_a_plan_that_does_not_fit_has_a_page_that_says_so(improved, tmp_path):
    """With by how much, at the top."""
    result = perfsim.simulate(improved.with_(keep_kv_cache=True, batch_size=512))
    text = perfsim.write_page(result, tmp_path / "report.html").read_text(encoding="utf-8")
    assert f'<p class="verdict bad">{result.memory_findings[0]}</p>' in text
    assert "does NOT fit" in text


def test_names_cannot_end_a_script_or_make_a_tag(improved, tmp_path):
    """A model and plans with tags in their names have as many scripts as others, and come through as text."""
    name = "<script>alert(1)</script>&\"'"
    scripts = []
    for first, second in (("one", "other"), (name, "</script>")):
        scenario = improved.with_(num_hidden_layers=2, batch_size=2)
        scenario = scenario.with_(model=dataclasses.replace(scenario.model, name=first))
        comparison = perfsim.compare({first: scenario, second: scenario}, baseline=first)
        text = perfsim.write_page(comparison, tmp_path / "report.html").read_text(encoding="utf-8")
        scripts.append([of for tag, of in Tags(text).found if tag == "script"])
        assert len(items_of(text)) == 12
    assert scripts[0] == scripts[1]
    assert "<script>alert" not in text
    assert name in text_of(text)


def test_the_same_result_gives_the_same_words(small_result, page, tmp_path):
    """The page has no date and no place in it."""
    again = perfsim.write_page(small_result, tmp_path / "other.html").read_text(encoding="utf-8")
    assert text_of(again) == text_of(page)
    assert str(tmp_path) not in again


def test_explanations_are_shown_where_they_are_known(small_result, monkeypatch):
    """What `perfsim.explain` says comes first, sentence by sentence."""
    said = words.findings(small_result)
    monkeypatch.setattr(words, "_explanation", lambda _: ["It is bound by compute."])
    assert words.findings(small_result)[0] == "It is bound by compute."
    assert said[-1] == small_result.memory_findings[-1]


# Bad input


@pytest.mark.parametrize("shown", [None, "seed-improved", perfsim.load_scenario("seed-improved")])
def test_only_results_have_pages(shown, tmp_path, refused):
    """A scenario must be simulated first."""
    (fault,) = refused(perfsim.write_page, shown, tmp_path / "report.html")
    assert fault.field == "result_or_comparison"
    assert "perfsim.simulate" in fault.way_out
    assert not list(tmp_path.iterdir())


def test_all_faults_come_together(refused):
    """Of both arguments."""
    assert [fault.field for fault in refused(perfsim.write_page, None, 5)] == ["result_or_comparison", "path"]


def test_a_folder_in_the_way_stays(small_result, tmp_path, refused):
    """And what is in it."""
    (tmp_path / "report.html").mkdir()
    (tmp_path / "report.html" / "mine").write_text("kept")
    (fault,) = refused(perfsim.write_page, small_result, tmp_path / "report.html")
    assert fault.allowed == "is a folder"
    assert [path.name for path in tmp_path.rglob("*")] == ["report.html", "mine"]


def test_a_file_in_the_place_of_a_folder_stays(small_result, tmp_path, refused):
    """A page cannot lie inside a file."""
    (tmp_path / "out").write_text("mine")
    (fault,) = refused(perfsim.write_page, small_result, tmp_path / "out" / "report.html")
    assert "cannot be written to" in fault.allowed
    assert (tmp_path / "out").read_text() == "mine"


def test_nothing_is_half_written(small_result, tmp_path, monkeypatch):
    """When something goes wrong the page that was there is there still, and nothing beside it."""
    (tmp_path / "report.html").write_text("before")

    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr(document, "dag_layout", fails)
    with pytest.raises(MemoryError):
        perfsim.write_page(small_result, tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "before"


def test_folders_on_the_way_are_made(small_result, tmp_path):
    """And an older page is replaced."""
    target = tmp_path / "a" / "b" / "report.html"
    perfsim.write_page(small_result, str(target))
    target.write_text("old")
    perfsim.write_page(small_result, target)
    assert target.stat().st_size > 1e6
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]
