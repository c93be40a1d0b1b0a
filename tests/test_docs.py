"""The pages keep their word: Python blocks run and print what they show, links lead somewhere, figures are current."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import perfsim
from perfsim.study.serving_figures import SERVED
from perfsim.units import format_bytes

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "docs" / "adr" / "0000-template.md"
DOCS = [page for page in sorted((ROOT / "docs").rglob("*.md")) if page != TEMPLATE]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS]
PLANS = ("seed-baseline", "seed-layerwise-pipelined", "seed-improved")
PROFILES = ("dgx-h100", "dgx-a100-80gb")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def name_of(page):
    """Give the page's path from the root, as the name of a test."""
    return str(page.relative_to(ROOT))


def blocks_of(page):
    """Give each fenced block of a page: its language, its text, and the prose just before it."""
    text, end = page.read_text(encoding="utf-8"), 0
    blocks = []
    for match in FENCE.finditer(text):
        blocks.append((match[1], match[2], text[end : match.start()]))
        end = match.end()
    return blocks


def anchors_of(page):
    """Give the anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_blanks(text):
    """Leave out blanks at the ends of lines, which pandas prints and editors take away."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def has_python(page):
    """Say whether a page has a block of Python."""
    return any(language == "python" for language, _, _ in blocks_of(page))


@pytest.mark.parametrize("page", list(filter(has_python, PAGES)), ids=name_of)
def test_python_blocks_run_and_print_what_stands_below_them(page, tmp_path, monkeypatch):
    """A `text` block right after a `python` block is its output; TOML examples are saved under their names.

    Blocks of a page go on from each other.
    """
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(page)
    for language, text, before in blocks:
        name = re.search(r"as `([\w.-]+\.toml)`[^`]*(`[^`]*`[^`]*)*$", before)
        if language == "toml" and name:
            (tmp_path / name[1]).write_text(text, encoding="utf-8")
    names = {}
    for index, (language, code, _) in enumerate(blocks):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{name_of(page)}, block {index}", "exec"), names)  # noqa: S102
        following = blocks[index + 1] if index + 1 < len(blocks) else ("", "", "-")
        if following[0] == "text" and not following[2].strip():
            assert without_blanks(printed.getvalue()) == without_blanks(following[1])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_files_and_headings(page):
    """A link leads to a file that is there, and to a heading of it."""
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors_of(linked), target


def test_every_page_stands_in_the_index():
    """The index of the documentation is complete."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in DOCS:
        path = page.relative_to(ROOT / "docs").as_posix()
        assert path == "README.md" or f"({path})" in index, path


def test_the_index_groups_the_pages_for_the_site():
    """The site makes its tree of contents from these headings and the first link of each row."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    groups = re.findall(r"^## (.+)$", index, re.MULTILINE)
    assert groups == ["Tutorial", "How-to", "Explanation", "Reference", "Decisions"]
    rows = re.findall(r"^\| \[.+?\]\((.+?)\)", index, re.MULTILINE)
    assert len(rows) == len(set(rows))
    notebooks = {f"../notebooks/{notebook.name}" for notebook in (ROOT / "notebooks").glob("*.ipynb")}
    others = {"../README.md", "../CHANGELOG.md", "api.rst", "adr/0000-template.md"}
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in DOCS} - {"README.md"}
    assert set(rows) == pages | notebooks | others


@pytest.mark.parametrize("module", [perfsim, perfsim.cost], ids=["perfsim", "perfsim.cost"])
def test_every_public_name_stands_once_in_the_reference(module):
    """The page from which the site makes the API has each name below its module, and none that is not public."""
    text = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    costs = text.index(".. automodule:: perfsim.cost")
    part = text[costs:] if module is perfsim.cost else text[:costs]
    lists = re.findall(r"^\.\. autosummary::\n   :toctree: generated\n\n((?:   \S+\n)+)", part, re.MULTILINE)
    names = [name for names in lists for name in names.split() if "." not in name]  # dotted ones are not public
    names += re.findall(r"^\.\. data:: (\S+)", part, re.MULTILINE)
    names += ["cost"] if module is perfsim else []  # whose page is the other part
    assert sorted(names) == sorted(module.__all__)


def test_example_of_a_scenario_loads(tmp_path):
    """The example of a scenario loads; that of a profile is loaded by its own page."""
    (example,) = [text for language, text, _ in blocks_of(ROOT / "docs" / "scenarios.md") if language == "toml"]
    (tmp_path / "my-scenario.toml").write_text(example, encoding="utf-8")
    assert perfsim.load_scenario(tmp_path / "my-scenario.toml").plan.num_devices == 16


def test_every_field_of_a_scenario_is_explained():
    """The page on scenarios has every field that a file may have."""
    text = (ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8")
    for kind in (perfsim.Plan, perfsim.Workload, perfsim.Model):
        for field in kind.__dataclass_fields__:
            assert f"`{field}`" in text, field


def test_every_column_is_explained():
    """The page on outputs has every column of every table."""
    text = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
    result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=4))
    frames = [
        result.timeline, result.operators, result.load_balance, result.links, result.memory, result.critical_path,
        result.memory_over_time(), result.memory_at_peak(), result.summary.to_frame().T,
        perfsim.compare({"a": result}, baseline="a").waterfall("a"),
    ]  # fmt: skip
    for frame in frames:
        for name in [*frame.columns, *(name for name in frame.index.names if name)]:
            assert f"`{name}`" in text, name
    for name in (*SERVED, "meets"):
        assert f"`{name}`" in text, name


@pytest.fixture(scope="module")
def comparisons():
    """Give the comparison of the three plans for each profile of the README's table."""
    found = {}
    for profile in PROFILES:
        cluster = perfsim.load_cluster(profile, num_devices=16)
        plans = {name: perfsim.load_scenario(name).with_(cluster=cluster) for name in PLANS}
        found[profile] = perfsim.compare(plans, baseline="seed-baseline")
    return found


def readme_rows(profile, comparison):
    """Write the rows of the README's table of results."""
    for name, row in comparison.table.iterrows():
        yield (
            f"| `{profile}` | `{name}` | {row['makespan_s']:,.1f} s | {row['tokens_per_s']:,.0f} | "
            f"{1e3 * row['first_sequence_s']:,.0f} ms | {row['mfu']:.1%} | {row['mfu_full_attention']:.1%} | "
            f"{row['bubble_fraction']:.1%} | {row['communication_fraction']:.1%} | {format_bytes(row['peak_bytes'])} |"
        )


def tool_rows(comparisons):
    """Write the rows of perfsim in the README's table of tools, for the improved plan."""
    scenarios = [comparisons[profile]["seed-improved"].scenario for profile in reversed(PROFILES)]
    for name, causal, note in (
        ("perfsim", True, "Half of the pairs counted, as the causal mask asks"),
        ("perfsim, `causal=False`", False, "All pairs counted"),
    ):
        seconds = [perfsim.simulate(scenario.with_(causal=causal)).makespan_s for scenario in scenarios]
        yield f"| **{name}** | {' | '.join(f'{value:.1f}' for value in seconds)} | {note} |"


def test_figures_beside_other_tools_are_those_of_this_code(comparisons):
    """The README's own row among the other tools is current."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in tool_rows(comparisons):
        assert row in readme, f"the README's table must say: {row}"


@pytest.mark.parametrize("profile", PROFILES)
def test_figures_of_the_readme_are_those_of_this_code(profile, comparisons):
    """The README's table of results is current."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in readme_rows(profile, comparisons[profile]):
        assert row in readme, f"the README's table must say: {row}"


def test_the_readme_has_the_two_commands():
    """Both commands stand alone on a line, as they are meant to be copied."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines.count("pip install . && perfsim demo --out deployment") == 1
    assert lines.count('pip install ".[test]" && python -m pytest') == 1
