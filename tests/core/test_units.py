"""Sizes and durations as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toilfn.errors import ResourceError
from toilfn.units import format_duration, format_size, parse_disk, parse_duration, parse_memory, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("17", 17), ("2G", 2 * 10**9), ("2Gi", 2 * 2**30), ("2GiB", 2 * 2**30), ("2gb", 2 * 10**9),
        ("1k", 1000), ("1 Ki", 1024), ("512Mi", 512 * 2**20), ("0.1G", 10**8), (".5K", 500), ("1.5Ti", 3 * 2**39),
        ("1_000", 1000), ("1e3", 1000), ("2.0G", 2 * 10**9), (" 3P ", 3 * 10**15), ("1E", 10**18), ("7b", 7),
        (12, 12), (12.9, 12), (2e9, 2 * 10**9),
    ],
)  # fmt: skip
def test_a_size_is_read_by_toils_rules(text: str | float, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "wrong", ["", " ", "G", "-1", "-2G", "2X", "2 G B", "two", "1i", "1,5G", -3, float("nan"), float("inf"), True, None]
)
def test_a_wrong_size_is_named_with_valid_forms(wrong: object) -> None:
    with pytest.raises(ResourceError) as error:
        parse_size(wrong)  # type: ignore[arg-type]  # wrong types are the point
    assert repr(wrong) in str(error.value)
    assert "Gi" in str(error.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30), ("1h", 3600), ("1h30m", 5400), ("1h 30 min", 5400), ("2 days", 172800), ("90", 90), ("1.5m", 90),
        ("01:30:00", 5400), ("05:30", 330), ("1-02:00:00", 93600), ("250ms", 0.25), ("1w", 604800),
        (90, 90), (0.5, 0.5), (timedelta(minutes=2), 120),
    ],
)  # fmt: skip
def test_a_duration_is_read(text: str | float | timedelta, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("wrong", ["", "h", "1x", "-5", "1h-", "1:2:3:4", -1, False, None, timedelta(seconds=-1)])
def test_a_wrong_duration_is_named_with_valid_forms(wrong: object) -> None:
    with pytest.raises(ResourceError, match="'1h30m'"):
        parse_duration(wrong)  # type: ignore[arg-type]  # wrong types are the point


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (2**20 - 1, "1 MiB"), (5 * 2**60, "5120 PiB")],
)
def test_a_size_is_written_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.25, "0.25s"), (12.54, "12.5s"), (59.99, "1m 00s"), (200, "3m 20s"), (3599.6, "1h 00m"),
        (7500, "2h 05m"), (86399.9, "1d 00h"), (273600, "3d 04h"),
    ],
)  # fmt: skip
def test_a_duration_is_written_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 2**62))
def test_written_text_can_be_read(size: int) -> None:
    assert parse_size(str(size)) == size
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06, abs=1)


@given(st.floats(0, 1e8))
def test_a_written_duration_can_be_read(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.0006)


@pytest.mark.parametrize("size", [8, "8", "20", 1024, "512K", 2**20 - 1, 1.5])
def test_memory_below_a_mebibyte_is_refused_as_a_missing_unit(size: str | float) -> None:
    for parse, what in ((parse_memory, "memory"), (parse_disk, "disk")):
        with pytest.raises(ResourceError, match=f"bytes of {what}, less than a mebibyte"):
            parse(size)


def test_no_disk_is_an_amount_but_no_memory_is_not() -> None:
    assert parse_disk(0) == 0
    assert parse_memory("1Mi") == parse_disk(2**20) == 2**20
    with pytest.raises(ResourceError, match="memory"):
        parse_memory(0)
