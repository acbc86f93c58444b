"""Amounts of resources and their one form."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.rules.quantities import QuantityError, canonical, parse_quantity


@pytest.mark.parametrize(
    "text, form",
    [
        ("2000m", "2"), ("0.1", "100m"), ("1500m", "1500m"), ("1000k", "1M"), ("1024Mi", "1Gi"), ("1536Mi", "1536Mi"), ("0.5Gi", "512Mi"), ("1.5Ki", "1536"),
        ("1024", "1024"), ("1e3", "1e3"), ("12e6", "12e6"), ("1E", "1E"), ("0", "0"), ("-1.5", "-1500m"), (2, "2"), ("0.0000000001", "1n"), ("0Mi", "0"),
        ("1E100", "10e99"), ("100e30", "100e30"), ("1000E", "1000E"),
    ],
)  # fmt: skip
def test_the_canonical_form(text, form):
    assert canonical(text) == form


@pytest.mark.parametrize("text", ["", "x", "1Kb", "1.2.3", "--1", "1 ", "1e", "Ki", "9" * 100, "١"])
def test_texts_that_are_no_amounts(text):
    with pytest.raises(QuantityError):
        parse_quantity(text)


@given(number=st.integers(-(10**9), 10**9), suffix=st.sampled_from(["n", "u", "m", "", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "E-3"]))
def test_the_canonical_form_means_the_same_and_is_its_own(number, suffix):
    text = f"{number}{suffix}"
    form = canonical(text)
    assert parse_quantity(form) == parse_quantity(text)
    assert canonical(form) == form


def test_an_amount_is_exact():
    assert parse_quantity("100m") == Fraction(1, 10)
    assert parse_quantity("1Gi") == 2**30


@given(text=st.text(alphabet="0123456789.eE+-KMGTPinumk ", max_size=20) | st.text(max_size=70))
def test_any_text_is_an_amount_or_an_error_of_ours(text):
    try:
        form = canonical(text)
    except QuantityError:
        return
    assert canonical(form) == form
