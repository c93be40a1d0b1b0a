"""The page in a browser: it opens without a network and without an error, and what it offers works."""

import pytest

import perfsim
from tests.browser.opened import Opened

MOST_SECONDS = 3.0
MOST_SECONDS_A_FRAME = 0.2


@pytest.fixture(scope="module")
def pages(seeds, tmp_path_factory):
    """Give the pages of one seed plan, every GPU simulated, and of the comparison of all."""
    folder = tmp_path_factory.mktemp("pages")
    result = perfsim.simulate(seeds["seed-improved"], detail="full")
    comparison = perfsim.compare(seeds, baseline="seed-baseline")
    return {
        "one": perfsim.write_page(result, folder / "one.html"),
        "all": perfsim.write_page(comparison, folder / "all.html"),
    }


@pytest.fixture(scope="module")
def one(browser, pages):
    """Give the page of one plan, open."""
    opened = Opened(browser, pages["one"])
    yield opened
    opened.context.close()


@pytest.fixture
def whole(one):
    """Give the same with the whole run in its timeline."""
    one.page.locator("button", has_text="Whole run").click()
    one.settle()
    return one


@pytest.mark.parametrize("which", ["one", "all"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_opens_in_silence(browser, pages, which, scheme):
    """Nothing on the console, and no request but for the file itself."""
    opened = Opened(browser, pages[which], scheme)
    for tab in opened.page.locator(".tab").all():
        tab.click()
        opened.page.wait_for_timeout(1500)
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [pages[which].as_uri()]
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[scheme]
    opened.context.close()


@pytest.mark.parametrize("which", ["one", "all"])
def test_a_page_opens_in_time(browser, pages, which):
    """Under three seconds until it can be read and used, and until all of its pictures are there."""
    opened = Opened(browser, pages[which])
    assert 0.1 < opened.open_s <= opened.busy_s < MOST_SECONDS
    opened.context.close()


def test_far_away_a_timeline_shows_shares(whole):
    """Of all executions, none of them as a bar."""
    said = whole.page.locator("#plan-0-shown").inner_text()
    assert said.startswith("1,589,248 executions in this window: each colour is as high as its share")
    assert whole.bars()["left"] == []


def test_near_a_timeline_shows_every_execution(whole, seeds):
    """At its simulated time, wherever one looks."""
    timeline = perfsim.simulate(seeds["seed-improved"]).timeline
    for start, end in ((0.0, 0.004), (22.0, 22.003), (44.325, 44.33)):
        whole.page.evaluate(f"perfsim.model('plan-0-time').setv({{ start: {start}, end: {end} }})")
        whole.settle()
        seen = timeline[(timeline["start_s"] < end) & (timeline["end_s"] > start)]
        bars = whole.bars()
        assert len(bars["left"]) == len(seen) > 0
        assert sorted(bars["left"]) == pytest.approx(sorted(seen["start_s"]), abs=1e-12)
        assert sorted(bars["right"]) == pytest.approx(sorted(seen["end_s"]), abs=1e-12)


def test_hovering_tells_of_an_operator(whole):
    """With shape, bytes and bound."""
    whole.page.evaluate("perfsim.model('plan-0-time').setv({ start: 0, end: 0.002 })")
    whole.settle()
    (tip,) = whole.hover("plan-0-lanes", 0.25, 0.02)
    assert tip.startswith("qkv_proj of layer 0")
    for part in ("GPU 0, stage 0", "microbatch\t0", "[1, 10000, 8192] ->", "GFLOP", "MB", "bound by\tcompute"):
        assert part in tip


def test_the_wheel_zooms_and_dragging_moves(whole):
    """Both in time only; without the control key the wheel scrolls the page."""
    left, top, width, height = whole.frame("plan-0-lanes")
    middle = left + width / 2, top + height / 2
    whole.page.mouse.move(*middle)
    before = whole.window()
    whole.page.mouse.wheel(0, -200)
    whole.page.wait_for_timeout(300)
    assert whole.window() == before
    left, top, width, height = whole.frame("plan-0-lanes")
    whole.page.mouse.move(left + width / 2, top + height / 2)
    whole.page.keyboard.down("Control")
    whole.page.mouse.wheel(0, -200)
    whole.page.keyboard.up("Control")
    whole.page.wait_for_timeout(300)
    near = whole.window()
    assert near[1] - near[0] < 0.9 * (before[1] - before[0])
    whole.page.mouse.down()
    whole.page.mouse.move(left + width / 2 + 200, top + height / 2, steps=4)
    whole.page.mouse.up()
    whole.page.wait_for_timeout(300)
    moved = whole.window()
    assert moved[0] < near[0]
    assert moved[1] - moved[0] == pytest.approx(near[1] - near[0])


def test_two_million_tasks_stay_smooth(whole):
    """A window with all of them is drawn again in the time of a few frames."""
    before = whole.busy_s
    whole.page.evaluate("""async () => {
        const range = perfsim.model('plan-0-time'), end = range.end;
        for (let step = 1; step <= 10; step++) {
            range.setv({ start: 0.01 * step, end: end - 0.01 * step });
            await new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(f)));
        }
    }""")
    assert 0.001 < (whole.busy_s - before) / 10 < MOST_SECONDS_A_FRAME


def test_memory_follows_the_timeline(whole, seeds):
    """With the exact instants near, and the most and least far away."""
    result = perfsim.simulate(seeds["seed-improved"])
    frame = result.memory_over_time(8)
    find = "renderers.find((one) => one.glyph.type === 'Step').data_source.data"
    far = whole.value("plan-0-memory", find)
    assert max(far["y"]) == pytest.approx(frame["total_bytes"].max() / 1e9)
    whole.page.evaluate("perfsim.model('plan-0-time').setv({ start: 22.0, end: 22.02 })")
    whole.settle()
    near = whole.value("plan-0-memory", find)
    seen = frame[(frame["time_s"] >= 22.0) & (frame["time_s"] <= 22.02)]
    assert near["x"][1:-1] == pytest.approx(seen["time_s"].tolist(), abs=1e-12)
    assert near["y"][1:-1] == pytest.approx((seen["total_bytes"] / 1e9).tolist())


def test_the_memory_of_another_gpu_can_be_chosen(whole):
    """The list names all that differ."""
    names = whole.page.locator("#plan-0-timeline select").first.locator("option").all_inner_texts()
    assert [name.split(":")[0] for name in names] == ["8–15", "0–7"]
    before = whole.value("plan-0-memory", "y_range.end")
    whole.page.locator("#plan-0-timeline select").first.select_option(names[1])
    whole.page.locator("#plan-0-timeline select").last.select_option("up to the peak")
    whole.settle()
    assert whole.value("plan-0-memory", "y_range.end") < before / 5


def test_the_dag_is_searched(one):
    """What is sought stands out and comes near."""
    field = one.page.locator("#plan-0-graph input")
    far = one.value("plan-0-dag", "x_range.end") - one.value("plan-0-dag", "x_range.start")
    field.fill("layer_03.attention")
    one.settle()
    assert one.page.locator("#plan-0-found").inner_text().startswith("4 found")
    nodes = "renderers.find((one) => one.glyph.type === 'Rect').data_source"
    chosen = one.value("plan-0-dag", f"{nodes}.selected.indices")
    names = one.value("plan-0-dag", f"{nodes}.data.tip")
    assert all("layer_03.attention" in names[index] for index in chosen)
    assert one.value("plan-0-dag", "x_range.end") - one.value("plan-0-dag", "x_range.start") < far / 1.5
    names_drawn = "renderers.filter((one) => one.glyph.type === 'Text' && one.glyph.text.field === 'name')[0]"
    sizes = [
        one.value("plan-0-dag", f"{names_drawn}.{glyph}.text_font_size.value")
        for glyph in ("glyph", "selection_glyph", "nonselection_glyph")
    ]
    assert len(set(sizes)) == 1
    assert 5 < float(sizes[0].removesuffix("px")) < 15
    field.fill("no such operator")
    assert one.page.locator("#plan-0-found").inner_text() == "Nothing found."
    field.fill("")
    assert one.page.locator("#plan-0-found").inner_text() == ""
    assert one.value("plan-0-dag", f"{nodes}.selected.indices") == []


def test_hovering_tells_of_a_node(one):
    """Its shapes, its GPUs and its time."""
    one.page.locator("#plan-0-graph input").fill("layer_03.mlp_up")
    one.settle()
    (tip,) = one.hover("plan-0-dag", 0.5, 0.49)
    one.page.locator("#plan-0-graph input").fill("")
    for part in ("layer_03.mlp_up", "column-parallel matmul", "GPU: 0-7", "[1, 10000, 8192]", "bound by\tcompute"):
        assert part in tip


def rows_of(one, column):
    """Give the texts of a column of the rows of the table that are in view, in the order of the screen."""
    rows = one.page.locator("#plan-0-operators .slick-row")
    find = "(rows, at) => rows.map((row) => [row.getBoundingClientRect().top, row.children[at].innerText])"
    return [text for _, text in sorted(rows.evaluate_all(find, column))]


def test_the_table_is_sorted_by_a_click(one):
    """On a head; a second click turns the order round."""
    head = one.page.locator("#plan-0-operators .slick-header-column", has_text="time (us)")
    head.scroll_into_view_if_needed()
    orders = []
    for _ in range(2):
        head.click()
        one.page.wait_for_timeout(300)
        orders.append([float(text.replace(",", "")) for text in rows_of(one, 7)])
    assert orders[0] == sorted(orders[0])
    assert orders[1] == sorted(orders[1], reverse=True)
    assert orders[1][0] > orders[0][-1]


def test_the_table_is_filtered(one, seeds):
    """By kind and by words, both at once."""
    operators = perfsim.simulate(seeds["seed-improved"]).operators
    table = one.page.locator("#plan-0-operators")
    table.locator("select").first.select_option("collective")
    one.settle()
    wanted = operators[operators["kind"] == "collective"]
    assert one.page.locator("#plan-0-rows").inner_text() == str(len(wanted))
    assert set(rows_of(one, 1)) == {"collective"}
    table.locator("input").first.fill("layer_05")
    one.settle()
    assert {name.split(".")[0] for name in rows_of(one, 0)} == {"layer_05"}
    table.locator("input").first.fill("")
    table.locator("select").first.select_option("all")
    one.settle()
    assert one.page.locator("#plan-0-rows").inner_text() == str((operators["seconds"] > 0).sum())


def test_plans_are_chosen_one_at_a_time(browser, pages):
    """Each with its own pictures, drawn when they are first seen."""
    opened = Opened(browser, pages["all"])
    assert opened.page.evaluate("perfsim.model('plan-2-time')") is None
    opened.page.locator(".tab", has_text="seed-improved").click()
    opened.page.wait_for_function("perfsim.model('plan-2-dag') !== null")
    assert opened.page.locator("#plan-2").is_visible()
    assert not opened.page.locator("#plan-0").is_visible()
    assert opened.window("plan-2") == (0, pytest.approx(44.3, abs=0.5))
    (tip,) = opened.hover("comparison-bars", 0.02, 0.2)
    assert tip.startswith("seed-baseline")
    opened.context.close()


def test_pictures_follow_a_change_of_theme(browser, pages):
    """The frame around the bars is painted again when the reader's theme changes."""
    opened = Opened(browser, pages["one"])
    left, top, width, height = opened.frame("plan-0-lanes")
    place = {"x": left + width - 30, "y": top - 12, "width": 20, "height": 5}
    light = opened.page.screenshot(clip=place)
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_timeout(500)
    axis = {"x": left, "y": top + height, "width": width, "height": 25}
    dark = opened.page.screenshot(clip=axis)
    opened.page.emulate_media(color_scheme="light")
    opened.page.wait_for_timeout(500)
    assert opened.page.screenshot(clip=place) == light
    assert opened.page.screenshot(clip=axis) != dark
    opened.context.close()
