"""The page of a served load in a browser: silent, smooth with a million steps, and what it offers works."""

import numpy as np
import pytest

import perfsim
from perfsim.serving.costs import RooflineCosts
from perfsim.serving.engine_times import EngineTimes
from perfsim.serving.results import OverloadError, serve_requests
from perfsim.serving.run import Service
from tests.browser.opened import Opened

MOST_SECONDS_A_FRAME = 0.2


def served(deployment, traffic, **engine):
    """Serve a made-up model of 70B on an engine whose host takes its time."""
    engine |= {"times": EngineTimes(step_s=2e-3, sequence_s=40e-6, prompt_s=10e-3, request_s=20e-3)}
    service = Service.of(RooflineCosts(), perfsim.Engine("vllm", **engine), deployment)
    return serve_requests(service, traffic.requests())


@pytest.fixture(scope="module")
def results():
    """Give a small load on separate pools whose caches are small, and a large one."""
    apart = perfsim.Deployment(replicas=2, prefill_replicas=1, transfer_latency_s=5e-3)
    few = perfsim.OpenLoop(requests_per_s=20, num_requests=200, prompt_tokens=1000, output_tokens=100)
    many = perfsim.ClosedLoop(concurrency=16, prompt_tokens=64, output_tokens=160, num_requests=110_000)
    return {"few": served(apart, few, kv_blocks=400), "many": served(None, many)}


@pytest.fixture(scope="module")
def pages(results, tmp_path_factory):
    """Give their pages."""
    folder = tmp_path_factory.mktemp("pages")
    return {name: perfsim.write_page(result, folder / f"{name}.html") for name, result in results.items()}


@pytest.fixture(scope="module")
def few(browser, pages):
    """Give the page of the small load, open."""
    opened = Opened(browser, pages["few"])
    yield opened
    opened.context.close()


@pytest.fixture
def whole(few):
    """Give the same with the whole run in its pictures and all requests in its table."""
    few.page.locator("button", has_text="Whole run").click()
    for field in few.page.locator("#served-requests input").all():
        field.fill("")
    for choice in few.page.locator("#served-requests select").all():
        choice.select_option("all")
    few.settle()
    return few


def bars(opened):
    """Give the columns of the bars that the steps show."""
    return opened.bars("served")


def zoom(opened, start, end):
    """Show the time from start to end."""
    opened.page.evaluate(f"perfsim.model('served-time').setv({{ start: {start}, end: {end} }})")
    opened.settle()


@pytest.mark.parametrize("which", ["few", "many"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_opens_in_silence(browser, pages, which, scheme):
    """Nothing on the console, and no request but for the file itself."""
    opened = Opened(browser, pages[which], scheme)
    opened.page.wait_for_timeout(500)
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [pages[which].as_uri()]
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[scheme]
    opened.context.close()


def test_a_load_of_which_nothing_has_come_opens_in_silence(browser, tmp_path):
    """No step, no latency, empty pictures."""
    service = Service.of(RooflineCosts(), perfsim.Engine("vllm"))
    with pytest.raises(OverloadError) as caught:
        serve_requests(service, perfsim.Bursts(prompt_tokens=300, output_tokens=6).requests(), limit_s=1e-4)
    opened = Opened(browser, perfsim.write_page(caught.value.partial, tmp_path / "page.html"))
    assert opened.said == []
    assert opened.page.locator("#served-shown").inner_text().startswith("0 steps in this window")
    opened.context.close()


def test_near_every_step_is_there(whole, results):
    """A bar for its decodes and one for its prompts, at its simulated time, as high as they are many."""
    steps = results["few"].steps
    for start, end in ((1.0, 1.5), (4.2, 4.9)):
        zoom(whole, start, end)
        seen = steps[(steps["start_s"] < end) & (steps["end_s"] > start)]
        both = np.concatenate([seen["start_s"][seen["prompt_tokens"] > 0], seen["start_s"][seen["decodes"] > 0]])
        drawn = bars(whole)
        assert len(both) > 0
        assert sorted(drawn["left"]) == pytest.approx(sorted(both), abs=1e-12)
        said = whole.page.locator("#served-shown").inner_text()
        assert said == f"{len(seen)} steps in this window, at their simulated times."
    tallest = steps["decodes"].max()
    row = seen[(seen["replica"] == 2) & (seen["decodes"] > 0)].iloc[0]
    at = [i for i, left in enumerate(drawn["left"]) if left == row["start_s"] and drawn["bottom"][i] == 0.06]
    assert drawn["top"][at[0]] == pytest.approx(0.06 + 0.42 * row["decodes"] / tallest)


def test_hovering_tells_of_a_step(whole):
    """Decodes, host and cache."""
    zoom(whole, 4.2, 4.25)
    (tip,) = whole.hover("served-lanes", 0.5, 1 - 0.08 / 3)
    assert tip.startswith("replica 2, decode")
    for part in ("start", "takes", "decodes", "host", "% of the time", "KV blocks", "running"):
        assert part in tip


def test_cache_and_queue_are_those_of_the_steps(whole, results):
    """Of the replica that is chosen, value by value."""
    steps = results["few"].steps
    zoom(whole, 2.0, 2.5)
    for label, replica in (("replica 1, decode", 1), ("replica 0, prefill", 0)):
        whole.page.locator("#served-timeline select").select_option(label)
        whole.settle()
        seen = steps[(steps["replica"] == replica) & (steps["start_s"] < 2.5) & (steps["end_s"] > 2.0)]
        for picture, column in (("cache", "kv_blocks"), ("queue", "running")):
            find = "renderers.find((one) => one.glyph.type === 'Step').data_source.data"
            drawn = whole.value(f"served-{picture}", find)
            held = dict(zip(drawn["x"], drawn["y"], strict=True))
            assert [held[start] for start in seen["start_s"]] == seen[column].tolist()
    assert whole.value("served-cache", "center.find((one) => one.type === 'Span').location") == 400


def test_requests_are_filtered(whole, results):
    """By their times, their replica, and whether they were preempted."""
    table = results["few"].requests
    rows = whole.page.locator("#served-rows")
    limit_s = table["ttft_s"].median()
    whole.page.locator("#served-requests input").first.fill(f"{1e3 * limit_s:.6f}")
    whole.settle()
    assert int(rows.inner_text()) == pytest.approx((table["ttft_s"] >= limit_s).sum(), abs=2)
    whole.page.locator("#served-requests input").first.fill("")
    replica, which = whole.page.locator("#served-requests select").all()
    which.select_option("preempted")
    whole.settle()
    preempted = table["preemptions"] > 0
    assert int(rows.inner_text()) == preempted.sum() > 0
    replica.select_option("1")
    whole.settle()
    assert int(rows.inner_text()) == (preempted & (table["replica"] == 1)).sum()


def test_requests_are_sorted(whole):
    """By a click on a head."""
    head = whole.page.locator("#served-requests .slick-header-column", has_text="TTFT")
    first = whole.page.locator("#served-requests .slick-row .slick-cell.l3").first
    seen = set()
    for _ in range(2):
        head.click()
        whole.page.wait_for_timeout(300)
        seen.add(float(first.inner_text().replace(",", "")))
    assert len(seen) == 2


def test_a_request_leads_to_its_time(whole, results):
    """A click on its row shows it in the pictures."""
    cell = whole.page.locator("#served-requests .slick-row .slick-cell.l0").nth(3)
    number = int(cell.inner_text().replace(",", ""))
    cell.click()
    whole.settle()
    row = results["few"].requests.loc[number]
    start, end = whole.window("served")
    assert start <= row["sent_s"] < row["finish_s"] <= end
    assert end - start < 1.2 * row["latency_s"]


def test_a_million_steps_stay_smooth(browser, pages, results):
    """A window with all of them is drawn again in the time of a few frames."""
    assert results["many"].outcome.steps.sum() > 1_000_000
    assert pages["many"].stat().st_size < 8e6
    opened = Opened(browser, pages["many"])
    said = opened.page.locator("#served-shown").inner_text()
    assert said.startswith(f"{results['many'].outcome.steps.sum():,} steps in this window: each column shows the mean")
    before = opened.busy_s
    opened.page.evaluate("""async () => {
        const range = perfsim.model('served-time'), { start, end } = range;
        for (let step = 1; step <= 10; step++) {
            range.setv({ start: start + 0.1 * step, end: end - 0.1 * step });
            await new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(f)));
        }
    }""")
    assert 0.001 < (opened.busy_s - before) / 10 < MOST_SECONDS_A_FRAME
    opened.context.close()
