"""Every shipped hardware profile: its form, its sources, and numbers that must agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest

from perfsim.spec.profiles import cluster_from_table

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = ROOT / "docs" / "hardware-profiles.md"
PATHS = sorted((ROOT / "hardware_profiles").glob("*.toml"))
NAMES = [
    "dgx-a100-80gb", "dgx-b200", "dgx-b300", "dgx-h100", "dgx-h200", "gb200-nvl72", "gb300-nvl72", "h20-8x",
    "l4-pcie-8x", "l40s-pcie-8x", "mi300x-8x", "mi325x-8x",
]  # fmt: skip

# Dense bf16 FLOP that one multiprocessor does in a clock. The H20 is held to a quarter of its architecture.
FLOP_PER_CLOCK = {"ampere": 2048, "ada": 1024, "hopper": 4096, "blackwell": 8192, "cdna3": 2048}
HELD_BACK = {"h20-8x": 4}
# Rates over the bf16 one where they are not those of the other devices: Blackwell Ultra has more FP4 and little INT8.
ULTRA = {"fp4": 6, "int8": 0.067}
RATIOS = {"dgx-b300": ULTRA, "gb300-nvl72": ULTRA}
# Decimal gigabytes on the box.
MARKETING_GB = {
    "dgx-a100-80gb": 80,
    "dgx-b200": 180,
    "dgx-b300": 288,
    "dgx-h100": 80,
    "dgx-h200": 141,
    "gb200-nvl72": 186,
    "gb300-nvl72": 288,
    "h20-8x": 96,
    "l4-pcie-8x": 24,
    "l40s-pcie-8x": 48,
    "mi300x-8x": 192,
    "mi325x-8x": 256,
}
# Bytes per second of a device in one direction, inner tier first, before any efficiency.
LINK_GB_PER_S = {
    "dgx-a100-80gb": [300, 25],
    "dgx-b200": [900, 50],
    "dgx-b300": [900, 100],
    "dgx-h100": [450, 50],
    "dgx-h200": [450, 50],
    "gb200-nvl72": [900, 50],
    "gb300-nvl72": [900, 100],
    "h20-8x": [450, 50],
    "l4-pcie-8x": [31.5, 25],
    "l40s-pcie-8x": [31.5, 25],
    "mi300x-8x": [448, 50],
    "mi325x-8x": [448, 50],
}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    """Give the path of a shipped profile."""
    return request.param


@pytest.fixture
def table(path):
    """Give the raw table of a shipped profile."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def is_number(value):
    """Tell numbers from flags and texts."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def sourced_numbers(table, where, inherited=None):
    """Give every number below a table as its dotted name, its value and the key of its source."""
    source = table.get("source", inherited)
    for key, value in table.items():
        name = f"{where}.{key}"
        if is_number(value):
            yield name, value, source
        elif isinstance(value, dict) and "value" in value:
            yield name, value["value"], value.get("source")
        elif isinstance(value, dict):
            yield from sourced_numbers(value, name, source)


def all_numbers(table):
    """Give every number of a profile that describes hardware."""
    yield from sourced_numbers(table["accelerator"], "accelerator")
    yield from sourced_numbers(table["efficiency"], "efficiency")
    for index, tier in enumerate(table["tiers"]):
        yield from sourced_numbers(tier, f"tiers.{index}")


def plain(entry):
    """Give the value of an entry with or without a source of its own."""
    return entry["value"] if isinstance(entry, dict) else entry


def test_the_profiles_are_these():
    """A profile is added or taken away on purpose."""
    assert [path.stem for path in PATHS] == NAMES


def test_profile_is_named_as_its_file(path, table):
    """Its name loads it, so it must be the name of the file; the format is the first."""
    assert table["name"] == path.stem
    assert table["format"] == 1
    assert table["title"].strip()


def test_profile_loads(table):
    """The loader takes every key, and knows a source for every number."""
    cluster = cluster_from_table(table)
    assert cluster.num_devices == table["num_devices"]
    assert set(cluster.sources) == {name for name, _, _ in all_numbers(table)}


def test_every_number_names_a_source(table):
    """Each number has the key of a source that the profile lists."""
    lost = {name: source for name, _, source in all_numbers(table) if source not in table["sources"]}
    assert not lost


def test_every_source_is_used(table):
    """No source is left over from a number that went away."""
    assert set(table["sources"]) == {source for _, _, source in all_numbers(table)}


def test_sources_say_something(table):
    """A source is a document, a tool's output or an honest sentence, in plain letters, and no path of a machine."""
    for key, text in table["sources"].items():
        assert len(text) >= 30, key
        assert text.isascii(), key
        assert not re.search(r"(^|\s)/\w+/|\bTODO\b", text), key


def test_every_number_is_positive(table):
    """No number is zero, negative or infinite."""
    assert not [name for name, value, _ in all_numbers(table) if not 0 < value < float("inf")]


def test_bf16_peak_follows_from_the_multiprocessors(table):
    """SMs x clock x FLOP per clock gives the dense bf16 peak within 3 %; a sparse figure would be double."""
    accelerator = table["accelerator"]
    per_clock = FLOP_PER_CLOCK[accelerator["architecture"]] / HELD_BACK.get(table["name"], 1)
    expected = plain(accelerator["sm_count"]) * plain(accelerator["clock_hz"]) * per_clock
    assert plain(accelerator["peak_flop_per_s"]["bf16"]) == pytest.approx(expected, rel=0.03)


def test_peaks_keep_their_ratios(table):
    """16-bit formats are equal, 8-bit ones twice as fast, 4-bit ones four times, TF32 half, FP32 the vector rate."""
    peaks = {dtype: plain(rate) for dtype, rate in table["accelerator"]["peak_flop_per_s"].items() if dtype != "source"}
    bf16 = peaks["bf16"]
    ratios = {"fp16": 1, "fp8": 2, "int8": 2, "fp4": 4, "tf32": 0.5, **RATIOS.get(table["name"], {})}
    for dtype, ratio in ratios.items():
        if dtype in peaks:
            assert peaks[dtype] == pytest.approx(ratio * bf16, rel=0.02), dtype
    assert peaks["fp32"] == plain(table["accelerator"]["vector_flop_per_s"])
    assert set(peaks) <= {*ratios, "bf16", "fp32"}


def test_narrow_formats_only_where_the_device_has_them(table):
    """FP8 came with Ada, Hopper and CDNA3, FP4 with Blackwell."""
    architecture, peaks = table["accelerator"]["architecture"], table["accelerator"]["peak_flop_per_s"]
    assert ("fp8" in peaks) == (architecture != "ampere")
    assert ("fp4" in peaks) == (architecture == "blackwell")


def test_vector_rate_follows_from_the_lanes(table):
    """FP32 lanes at no more than the highest boost clock: within 25 % above what the stated clock gives."""
    accelerator = table["accelerator"]
    per_clock = 128 if accelerator["architecture"] == "ampere" else 256
    at_clock = plain(accelerator["sm_count"]) * plain(accelerator["clock_hz"]) * per_clock
    assert 0.97 <= plain(accelerator["vector_flop_per_s"]) / at_clock <= 1.25


def test_memory_is_near_the_size_on_the_box(table):
    """What the driver reports lies within 10 % of the marketing size and is a whole number of MiB."""
    memory = plain(table["accelerator"]["memory_bytes"])
    assert memory == pytest.approx(MARKETING_GB[table["name"]] * 1e9, rel=0.10)
    assert memory % 2**20 == 0


def test_caches_are_whole_kibibytes(table):
    """Sizes on the chip are powers of two times something, never decimal."""
    accelerator = table["accelerator"]
    assert plain(accelerator["shared_memory_bytes_per_sm"]) % 1024 == 0
    assert plain(accelerator["l2_bytes"]) % 2**19 == 0


def test_tiers_run_from_the_inside_out(table):
    """Each tier is slower and farther than the one inside it; the outermost joins everything."""
    tiers = table["tiers"]
    assert "domain_size" not in tiers[-1]
    assert all("domain_size" in tier for tier in tiers[:-1])
    assert table["num_devices"] == tiers[0]["domain_size"]
    speeds = [plain(tier["bytes_per_s"]) for tier in tiers]
    hops = [plain(tier["latency_s"]) for tier in tiers]
    assert speeds == sorted(speeds, reverse=True)
    assert hops == sorted(hops)
    assert all(1e-7 < hop < 1e-5 for hop in hops)


def test_links_count_one_direction(table):
    """Bandwidths are of one device in one direction, not the doubled figure of the datasheets."""
    speeds = [plain(tier["bytes_per_s"]) / 1e9 for tier in table["tiers"]]
    assert speeds == pytest.approx(LINK_GB_PER_S[table["name"]])


def test_only_nvswitch_from_hopper_on_reduces(table):
    """Third and later generations of NVSwitch add up data; PCIe, A100's NVSwitch and AMD's mesh do not."""
    inner, *outer = table["tiers"]
    switch = inner["name"] == "nvlink" and table["accelerator"]["architecture"] in {"hopper", "blackwell"}
    assert inner["reduces_in_switch"] is switch
    assert ("network_in_switch" in table["efficiency"]) is switch
    assert not any(tier["reduces_in_switch"] for tier in outer)


def test_efficiencies_are_plausible(table):
    """Fractions lie between a third and one; fixed times of a launch between one and ten microseconds."""
    for name, value, _ in sourced_numbers(table["efficiency"], "efficiency"):
        if name in {"efficiency.kernel_s", "efficiency.collective_s"}:
            assert 1e-6 <= value <= 1e-5, name
        elif name != "efficiency.in_switch_s":
            assert 1 / 3 < value < 1, name


def test_the_line_of_the_switch_is_plausible(table):
    """It starts above a collective's launch and is mostly bandwidth from the smallest payload of its fit on.

    Its constant is the intercept of a line through large all-reduces, not the time of a launch: it stands for the rate
    that still grows with size. A constant above the wire time of that smallest payload would be no fit of a line.
    """
    efficiency = {key: plain(value) for key, value in table["efficiency"].items() if key != "source"}
    assert ("in_switch_s" in efficiency) == ("network_in_switch" in efficiency)
    if "in_switch_s" not in efficiency:
        return
    smallest = (128 if table["accelerator"]["architecture"] == "blackwell" else 32) * 2**20
    rate = efficiency["network_in_switch"] * plain(table["tiers"][0]["bytes_per_s"])
    assert efficiency["collective_s"] < efficiency["in_switch_s"] < smallest * (1 + 1 / 8) / rate


def test_the_document_lists_every_profile(table):
    """The table of the document has a row for the profile, with its memory, peak and link."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith(f"| `{table['name']}` |")]
    assert len(rows) == 1
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    accelerator = table["accelerator"]
    assert cells[2:] == [
        str(table["num_devices"]),
        f"{plain(accelerator['peak_flop_per_s']['bf16']) / 1e12:.0f}",
        f"{plain(accelerator['memory_bytes']) / 1e9:.1f}",
        f"{plain(accelerator['memory_bytes_per_s']) / 1e12:.2f}",
        " / ".join(f"{plain(tier['bytes_per_s']) / 1e9:g}" for tier in table["tiers"]),
        "yes" if table["tiers"][0]["reduces_in_switch"] else "no",
    ]


def test_the_example_of_the_document_loads():
    """The profile that the document shows is complete."""
    (example,) = re.findall(r"```toml\n(format = 1\n.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    cluster = cluster_from_table(tomllib.loads(example))
    assert cluster.name == "my-cluster"
    assert cluster.tiers[0].reduces_in_switch is False
