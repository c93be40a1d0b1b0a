"""Numbers as text, many at once: digit by digit what Python writes."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.report import number_text
from perfsim.report.number_text import Blank, Form, decimal_text

NUMBERS = st.lists(st.integers(0, 2**62), min_size=1, max_size=20)


@given(numbers=NUMBERS, decimals=st.integers(0, 9))
def test_every_digit_is_there(numbers, decimals):
    """Read as decimals, the texts are the numbers; beside them are only blanks."""
    values = np.array(numbers, np.int64)
    blank = Blank.of(1, max(numbers), decimals)
    texts = [bytes(row).decode() for row in decimal_text(values, blank.width, decimals)]
    for number, text in zip(numbers, texts, strict=True):
        assert Decimal(text.strip()) == Decimal(number).scaleb(-decimals)
        whole, point, rest = text.strip().partition(".")
        assert (point, len(rest)) == ((".", decimals) if decimals else ("", 0))
        assert whole == str(int(whole))
        assert text == text.strip().rjust(blank.width)
    assert len(texts[numbers.index(max(numbers))].strip()) == blank.width


def test_arrays_of_any_shape():
    """The digits are a further axis."""
    text = decimal_text(np.arange(6).reshape(2, 3), 2)
    assert text.shape == (2, 3, 2)
    assert text[1, 2].tobytes() == b" 5"


@given(numbers=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 10**7 - 1)), min_size=1, max_size=12))
@pytest.mark.parametrize("most_bytes", [1, 60, 10**6])
def test_copies_differ_in_their_numbers(numbers, most_bytes):
    """In pieces of any size; a text may have several blanks of a kind, which stand in their order."""
    first, second = Blank(1, 3), Blank(2, 8, 6)
    form = Form(f"[{first}|{second}|{first}]")
    left, right = np.array(numbers, np.int64).T
    before, number_text._MOST_BYTES = number_text._MOST_BYTES, most_bytes
    try:
        filled = b"".join(form.filled({first: np.stack([left, 999 - left], axis=1), second: right[:, None]}, len(left)))
    finally:
        number_text._MOST_BYTES = before
    wanted = "".join(f"[{a:3}|{Decimal(b).scaleb(-6):8.6f}|{999 - a:3}]" for a, b in numbers)
    assert filled.decode() == wanted


def test_nothing_gives_nothing():
    """No copies, no text."""
    blank = Blank(1, 2)
    assert b"".join(Form(f"{blank}").filled({blank: np.empty((0, 1), np.int64)}, 0)) == b""
