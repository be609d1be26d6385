import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolloutops.formats.strict_json import canonical, digest, dump, parse

# Text without surrogates, integers beyond 64 bits, floats of every size.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**30), max_value=10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20)


def shuffled(value: object) -> object:
    if isinstance(value, dict):
        return {key: shuffled(item) for key, item in reversed(value.items())}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(VALUES)
def test_what_is_written_is_read_back_exactly(value: object) -> None:
    text = dump(value)
    assert repr(parse(text)) == repr(value)  # 1 and 1.0, 0.0 and -0.0, and the order of keys stay as they are
    assert repr(parse(text.encode())) == repr(value)
    assert parse(canonical(value)) == value
    assert "\n" not in text


@given(VALUES)
def test_equal_values_have_equal_canonical_text_and_digest(value: object) -> None:
    assert canonical(shuffled(value)) == canonical(value) == canonical(parse(dump(shuffled(value))))
    assert digest(shuffled(value)) == digest(value)
    assert digest(value) == hashlib.sha256(canonical(value).encode()).hexdigest()[:32]


def test_digest_is_fixed() -> None:
    # Task ids are made of it: it must never change.
    value = {"b": [1, 1.0, 1e16, 1e-7, 2**70, None, True], "a": "é\u2028/\x7f"}
    assert canonical(value) == '{"a":"é\u2028/\x7f","b":[1,1.0,1e+16,1e-07,1180591620717411303424,null,true]}'
    assert digest(value) == "6b80b450cf31e1a5a08016c0573a89f1"


@given(st.binary())
def test_any_bytes_are_parsed_as_the_standard_reader_does_or_refused(data: bytes) -> None:
    try:
        value = parse(data)
    except ValueError:
        return
    assert json.loads(data) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1, "a": 2}', 'the key "a" is given twice (column 14)'),
        (b'{"\\u0061": 1, "a": 2}', 'the key "a" is given twice (column 19)'),
        (b'{"a": NaN}', "NaN is not a JSON number (column 7)"),
        (b"[1, -Infinity]", "-Infinity is not a JSON number (column 6)"),
        (b"Infinity", "Infinity is not a JSON number (column 1)"),
        (b'{"a": [1e400]}', "a number is too large: JSON readers would take it for infinity"),
        (b"1" * 5000, "a number has too many digits (column 4302)"),
        (b'{"a": "\xff"}', "invalid UTF-8 at byte 8"),
        (b'"\xed\xa0\x80"', "invalid UTF-8 at byte 2"),
        (b'"\\ud800 x"', "half a surrogate pair (column 8)"),
        ('"\ud800"', "half a surrogate pair at character 2"),
        (b"[" * 300 + b"]" * 300, "nested deeper than 200 levels (column 202)"),
        (b"[" * 1_000_000, "nested deeper than 200 levels (column 202)"),
        (b'{"a": 1', "not JSON: it ends too early (column 7)"),
        (b"", "not JSON: it is empty"),
        (b"  ", "not JSON: it is empty"),
        (b"<PLACEHOLDER ROW>", "not JSON: expected value (column 1)"),
        (b"[1,\n2,\nx]", "not JSON: expected value (line 3, column 1)"),
        (b"\xef\xbb\xbf{}", "not JSON: it begins with a byte order mark"),
    ],
)
def test_what_other_readers_repair_is_refused_with_a_reason(text: bytes | str, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(text)
    assert str(error.value) == reason


def test_integers_are_exact_to_pythons_limit() -> None:
    number = 10**4000 + 7
    assert parse(dump([number])) == [number]


def test_dump_never_fails_on_a_models_text_or_a_verifiers_number() -> None:
    assert dump({"a": math.nan, "b": [math.inf, 2**70]}) == '{"a":null,"b":[null,1180591620717411303424]}'
    assert parse(dump("half \ud83d pair \U0001f600")) == "half \ufffd pair \U0001f600"
    assert dump({1: (2, 3)}) == '{"1":[2,3]}'
    assert dump({"b": 1, "a": 2}) == '{"b":1,"a":2}'
    with pytest.raises(ValueError, match="not a JSON value"):
        dump({"a": object()})
    with pytest.raises(ValueError):
        canonical([math.nan])
    assert digest("\ud800") != digest("\ufffd")


def test_a_long_text_is_hashed_in_pieces_as_it_is_hashed_whole() -> None:
    long = 'é"\n😀\\' * 700_000
    value = {"z": long, 'k"': [1, 2.5, None, {"y": ["x" * 2_000_000, True]}], "e": {}, "n": []}
    assert digest(value) == hashlib.sha256(canonical(value).encode()).hexdigest()[:32]
