"""The colours that stand side by side in a picture can be told apart, also by the colour-blind."""

import itertools

import numpy as np
import pytest

from perfsim.report import colours, plot_accuracy, plot_sweep

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency", IEEE
# Transactions on Visualization and Computer Graphics 15(6), 2009: severity 1, on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = TO_XYZ.sum(axis=1)
PALETTES = {
    "kinds": list(colours.KIND_COLOURS.values()),
    "memory": list(colours.MEMORY_COLOURS.values()),
    "bounds": list(colours.BOUND_COLOURS.values()),
    "waterfall": [colours.TOTAL, colours.FASTER, colours.SLOWER],
    "lines": list(plot_sweep._COLOURS),
    "systems": list(plot_accuracy._COLOURS),
}
LEAST = 12.0
"""CIE76 distance: 2.3 is just noticeable between fields that touch, and bars stand apart."""


def lab(colour, vision):
    """Give the CIELAB coordinates of a colour as it is seen."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    ratio = TO_XYZ @ np.clip(VISIONS[vision] @ linear, 0, 1) / WHITE
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distances(palette, vision):
    """Give the distance of every pair of colours, in increasing order."""
    pairs = itertools.combinations(palette, 2)
    return sorted((float(np.linalg.norm(lab(a, vision) - lab(b, vision))), a, b) for a, b in pairs)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("name", PALETTES)
def test_colours_can_be_told_apart(name, vision):
    """Every two colours of a palette are far enough from each other in CIELAB, as each eye sees them."""
    distance, one, other = distances(PALETTES[name], vision)[0]
    assert distance >= LEAST, f"{one} and {other} of {name} are alike with {vision}"


@pytest.mark.parametrize(
    ("vision", "palette"), [("deuteranopia", ["#C03030", "#6F6F10"]), ("protanopia", ["#803030", "#405030"])]
)
def test_red_and_green_would_be_refused(vision, palette):
    """The check can fail: these are far apart for most people, and alike for some."""
    assert distances(palette, "normal")[0][0] >= LEAST
    assert distances(palette, vision)[0][0] < LEAST


def test_the_simulation_keeps_greys():
    """A grey looks grey to everyone, as light as it is."""
    for vision in VISIONS:
        assert lab("#808080", vision) == pytest.approx([53.585, 0, 0], abs=0.1)


def test_words_on_a_bar_are_legible():
    """The contrast of luminance of a figure on its bar is at least 3 to 1 (WCAG 2.2, criterion 1.4.11)."""
    for colour in PALETTES["kinds"]:
        ink = {"white": "#FFFFFF"}.get(colours.ink_on(colour), colours.ink_on(colour))
        light, dark = sorted((luminance(colour), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, colour


def luminance(colour):
    """Give the relative luminance of a colour."""
    lightness = lab(colour, "normal")[0]
    return ((lightness + 16) / 116) ** 3 if lightness > 8 else lightness * 27 / 24389
