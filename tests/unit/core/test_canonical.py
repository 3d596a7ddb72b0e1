"""Canonical JSON: one text for one value."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp_app.core.canonical import canonical_json, json_safe, sha256_of

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_reading_canonical_json_gives_the_value_back(value):
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), values, max_size=5))
def test_key_order_does_not_change_the_hash(value):
    assert sha256_of(dict(reversed(value.items()))) == sha256_of(value)


def test_nan_is_refused_rather_than_written():
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"x": float("nan")})


def test_what_json_cannot_hold_is_made_plain():
    assert json_safe({1: float("nan"), "b": (float("inf"), 2.5, {"c"})}) == {"1": None, "b": [None, 2.5, ["c"]]}


@given(values)
def test_plain_values_pass_unchanged(value):
    assert json_safe(value) == value
