"""Times as they come and as they are kept."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.times import canonical_micro_time, canonical_time, parse_time, text_of_micro_time, text_of_time

MOMENTS = st.datetimes(timezones=st.just(UTC))


@given(MOMENTS)
def test_a_time_comes_back_as_it_was_written_in_every_year_that_there_is(moment: datetime) -> None:
    text = text_of_time(moment)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text)
    assert parse_time(text) == moment.replace(microsecond=0) and canonical_time(text) == text
    micro = text_of_micro_time(moment)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", micro)
    assert parse_time(micro) == moment and canonical_micro_time(micro) == micro


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param("0114-08-03T10:25:03+07:20", "0114-08-03T03:05:03Z", id="a year of three digits keeps its zero"),
        pytest.param("2026-01-02T03:04:05.999999999Z", "2026-01-02T03:04:05Z", id="a fraction is cut off"),
        pytest.param("0001-01-01T00:00:00+01:00", None, id="an hour before the first year is no time"),
        pytest.param("9999-12-31T23:59:59-01:00", None, id="an hour after the last year is none"),
        pytest.param("0000-01-01T00:00:00Z", None, id="there is no year 0"),
        pytest.param("2026-01-02 03:04:05Z", None, id="a blank between day and hour is not RFC 3339"),
    ],
)
def test_a_time_is_kept_in_one_form(text: str, kept: str | None) -> None:
    if kept is not None:
        assert canonical_time(text) == kept
    else:
        with pytest.raises(ValueError, match="is no time such as"):
            canonical_time(text)


@given(st.one_of(st.text(max_size=40), st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[-+]\d\d:\d\d)", fullmatch=True)))
def test_any_text_is_a_time_or_none(text: str) -> None:
    moment = parse_time(text)
    assert moment is None or moment.tzinfo is UTC
