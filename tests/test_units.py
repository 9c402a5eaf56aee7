"""Numbers as people write and read them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modcalc.errors import UsageError
from modcalc.units import binary_bytes, grouped, params, parse_bound, parse_bytes, parse_count, parse_ratio, scaled, seconds, si


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (6e18, 6 * 10**18),
        ("6e18", 6 * 10**18),
        (" 1e20 ", 10**20),
        ("1.5B", 1_500_000_000),
        ("1.5 G", 1_500_000_000),
        ("300k", 300_000),
        ("291.65 GFLOPs", 291_650_000_000),
        ("1 TFLOP", 10**12),
        ("100.00 EFLOPs", 10**20),
        ("7B params", 7 * 10**9),
        ("300Btokens", 300 * 10**9),
        ("124_439_808", 124_439_808),
        ("124,439,808", 124_439_808),
        (7, 7),
        (10**36, 10**36),
        ("+3", 3),
        ("1E3", 1000),
        ("0.1M", 100_000),
        (Fraction(4, 2), 2),
    ],
)
def test_counts_are_exact(written: object, count: int | None) -> None:
    if count is None:
        with pytest.raises(UsageError):
            parse_count(written)
    else:
        assert parse_count(written) == count
        assert type(parse_count(written)) is int


@pytest.mark.parametrize(
    ("written", "size"),
    [("80GiB", 80 * 2**30), ("24 GB", 24 * 10**9), ("1KiB", 1024), ("1.5 kib", 1536), (1e9, 10**9), ("2e9", 2 * 10**9), ("1TB", 10**12)],
)
def test_bytes_say_their_power(written: object, size: int) -> None:
    assert parse_bytes(written) == size


BAD = (0, -1, "0", "-6e18", float("nan"), float("inf"), "nan", "inf", "1e400", "1e99999999999", 10**400, -(10**400), "9" * 5000, "", " ")
BAD += ("12.5%", "1,5B", "1__0", "1e", "e18", "0x10", "six", "1.2.3", "1 2", True, None, [], {}, b"1", "1e37", "1QB", "\u0663")


@pytest.mark.parametrize("written", BAD)
@pytest.mark.parametrize("parse", [parse_count, parse_bytes, parse_ratio])
def test_anything_else_names_itself_and_what_is_allowed(written: object, parse: object) -> None:
    with pytest.raises(UsageError) as wrong:
        parse(written, "--budget")
    text = str(wrong.value)
    assert text.startswith("--budget: found ") and "allowed a positive number up to 1e36" in text
    assert "\n" not in text and len(text) < 400


@pytest.mark.parametrize("written", ["80GiB", "24GB", "1KB"])
def test_bytes_are_no_count(written: str) -> None:
    with pytest.raises(UsageError, match="counts take K, M, B"):
        parse_count(written)


@pytest.mark.parametrize("written", ["80G", "1.5B", "3 tokens"])
def test_counts_are_no_bytes(written: str) -> None:
    with pytest.raises(UsageError, match="bytes take KiB"):
        parse_bytes(written)


def test_what_must_be_whole_is() -> None:
    for written in ("1.5", 0.5, "1.0001K", Fraction(1, 3)):
        with pytest.raises(UsageError, match="allowed whole numbers"):
            parse_count(written, "params")


def test_part_of_a_byte_of_a_larger_unit_is_dropped() -> None:
    assert parse_bytes("79.6GiB") == parse_bytes("79.6GiB ") == 796 * 2**30 // 10 and parse_bytes("1.0001 KiB") == 1024
    assert parse_bound("79.6GiB", "train_memory_bytes") == Fraction(796 * 2**30, 10) and parse_bound("1KiB", "kv_cache_bytes") == 1024
    for written in ("1.5", "0.0001KiB", 1.5):
        with pytest.raises(UsageError, match="allowed whole numbers"):
            parse_bytes(written)


def test_a_ratio_is_the_decimal_that_was_written() -> None:
    assert parse_ratio(0.29) == parse_ratio("0.29") == Fraction(29, 100)
    with pytest.raises(UsageError, match="a ratio takes no suffix"):
        parse_ratio("1K")


@given(st.integers(1, 10**36))
def test_an_integer_survives(n: int) -> None:
    assert parse_count(n) == parse_count(str(n)) == parse_bytes(f"{n:_}") == parse_count(grouped(n)) == n


@pytest.mark.parametrize(
    ("n", "flops", "parameters", "size"),
    [
        (0, "0 FLOPs", "0", "0 B"),
        (999, "999 FLOPs", "999", "999 B"),
        (1000, "1.00 kFLOPs", "1.00K", "1,000 B"),
        (999_994, "999.99 kFLOPs", "999.99K", "976.56 KiB"),
        (999_999, "1.00 MFLOPs", "1.00M", "976.56 KiB"),
        (2**20 - 1, "1.05 MFLOPs", "1.05M", "1.00 MiB"),
        (124_439_808, "124.44 MFLOPs", "124.44M", "118.68 MiB"),
        (291_648_307_200, "291.65 GFLOPs", "291.65B", "271.62 GiB"),
        (2**31, "2.15 GFLOPs", "2.15B", "2.00 GiB"),
        (10**20, "100.00 EFLOPs", "100,000,000.00T", "86.74 EiB"),
        (314 * 10**21, "3.14e+23 FLOPs", "314,000,000,000.00T", "272,351.59 EiB"),
        (-5_000_000, "-5.00 MFLOPs", "-5.00M", "-4.77 MiB"),
        (Fraction(3001, 2), "1.50 kFLOPs", "1.50K", "1.47 KiB"),
        (Fraction(7, 2), "4 FLOPs", "4", "4 B"),
        (float("nan"), "- FLOPs", "-", "-"),
        (float("inf"), "- FLOPs", "-", "-"),
    ],
)
def test_looks(n: object, flops: str, parameters: str, size: str) -> None:
    assert (si(n, "FLOPs"), params(n), binary_bytes(n)) == (flops, parameters, size)


def test_si_without_a_unit() -> None:
    assert si(2_619_867_136) == "2.62 G" and si(12) == "12"


@given(st.integers(-(10**24), 10**24))
def test_a_scaled_number_is_within_half_a_unit_of_its_last_digit(n: int) -> None:
    steps = ("", "k", "M", "G")
    number, _, suffix = scaled(n, steps, 1000).partition(" ")
    step = 1000 ** steps.index(suffix)
    assert abs(Fraction(number.replace(",", "")) * step - n) <= Fraction(step, 200) * (step > 1)
    assert abs(Fraction(number.replace(",", ""))) < 1000 or suffix == "G"


def test_grouped() -> None:
    assert [grouped(n) for n in (1234567, Fraction(6, 2), Fraction(2469, 2), 1e15, float("nan"))] == [
        "1,234,567", "3", "~1,234", "1,000,000,000,000,000", "-",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("s", "text"),
    [
        (0, "0 s"), (1.5, "1.5 s"),
        (0.0123, "12.3 ms"), (0.9996, "1 s"), (3e-6, "3 us"), (4.2e-9, "4.2 ns"), (1e-12, "0.001 ns"), (123456.0, "123,000 s"),
        (-0.5, "-500 ms"), (float("nan"), "-"),
    ],
)  # fmt: skip
def test_seconds(s: float, text: str) -> None:
    assert seconds(s) == text
