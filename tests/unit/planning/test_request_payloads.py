"""The payloads of requests, and the look-up of addresses, with the texts of the original."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import maxminddb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.geoip_database import write_database

from engine.actions.iplocation import NotLocatableError, locate, public_address
from engine.model.errors import UndecodableError
from engine.planning.requests import ANY, SHAPES, read_payload

IP = SHAPES["iplocation"]
JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (None, {"ipaddr": "", "locale": ""}),
        ({}, {"ipaddr": "", "locale": ""}),
        ({"IPADDR": "x", "Locale": None}, {"ipaddr": "x", "locale": ""}),
        ({"ipaddr": "exact", "IpAddr": "other"}, {"ipaddr": "exact", "locale": ""}),
        ({"IpAddr": "other", "IPADDR": "last"}, {"ipaddr": "last", "locale": ""}),
        ({"ipaddr": "x", "more": [1]}, {"ipaddr": "x", "locale": "", "more": [1]}),
    ],
)
def test_fields_are_found_in_any_case(payload: Any, expected: dict[str, Any]) -> None:
    assert read_payload(payload, IP) == expected


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (True, "bool", "true"),
        (5, "float64", "5"),
        (1.5, "float64", "1.5"),
        (-1.0, "float64", "-1"),
        (0.1, "float64", "0.1"),
        (1e20, "float64", "100000000000000000000"),
        (1e21, "float64", "1e+21"),
        (123e25, "float64", "1.23e+27"),
        (0.00001, "float64", "1e-05"),
        (0.0001, "float64", "0.0001"),
        ([], "[]interface {}", "[]"),
        ([1, "a", None, [True]], "[]interface {}", "[1 a <nil> [true]]"),
        ({"b": 1, "a": {}}, "map[string]interface {}", "map[a:map[] b:1]"),
    ],
    ids=str,
)
def test_a_wrong_type_is_named_as_go_names_it(value: Any, kind: str, shown: str) -> None:
    with pytest.raises(UndecodableError) as caught:
        read_payload({"ipaddr": value}, IP)
    assert str(caught.value) == (
        f"1 error(s) decoding:\n\n* 'IpAddr' expected type 'string', got unconvertible type '{kind}', value: '{shown}'"
    )


@pytest.mark.parametrize(
    ("payload", "kind"), [([1], "slice"), ("x", "string"), (1, "float64"), (False, "bool")]
)
def test_a_payload_that_is_no_object_is_rejected(payload: Any, kind: str) -> None:
    for shape in (IP, ANY):
        with pytest.raises(UndecodableError, match=f"^'' expected a map, got '{kind}'$"):
            read_payload(payload, shape)


@given(JSON)
def test_any_payload_is_read_or_rejected_with_a_short_reason(payload: Any) -> None:
    for shape in (ANY, *SHAPES.values()):
        try:
            values = read_payload(payload, shape)
        except UndecodableError as error:
            assert len(str(error)) < 2000
        else:
            assert all(isinstance(values[name], str) for name in shape)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "parse ip() error"),
        (" 1.2.3.4", "parse ip( 1.2.3.4) error"),
        ("1.2.3.4/8", "parse ip(1.2.3.4/8) error"),
        ("1.2.3", "parse ip(1.2.3) error"),
        ("01.2.3.4", "parse ip(01.2.3.4) error"),
        ("fe80::1%eth0", "parse ip(fe80::1%eth0) error"),
        ("x" * 1000, f"parse ip({'x' * 100}) error"),
        ("127.8.9.1", "ip(127.8.9.1) is a loopback address"),
        ("::1", "ip(::1) is a loopback address"),
        ("::ffff:127.0.0.1", "ip(::ffff:127.0.0.1) is a loopback address"),
        ("172.31.255.255", "ip(172.31.255.255) is a private address"),
        ("::ffff:10.1.2.3", "ip(::ffff:10.1.2.3) is a private address"),
        ("fdff::1", "ip(fdff::1) is a private address"),
        ("224.0.0.1", "ip(224.0.0.1) is a multicast address"),
        ("ff02::1", "ip(ff02::1) is a multicast address"),
    ],
)
def test_the_database_is_not_asked_for_these_addresses(text: str, message: str) -> None:
    with pytest.raises(NotLocatableError) as caught:
        public_address(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text", ["172.32.0.1", "100.64.0.1", "169.254.1.1", "0.0.0.0", "::", "fe80::1", "255.255.255.255"]
)
def test_the_database_is_asked_for_these_addresses(text: str) -> None:
    assert public_address(text) == ipaddress.ip_address(text)


@given(st.text())
def test_any_text_is_parsed_or_rejected_as_an_address(text: str) -> None:
    try:
        public_address(text)
    except NotLocatableError as error:
        assert len(str(error)) < 150


def test_a_record_of_the_database_is_returned(tmp_path: Path) -> None:
    nowhere = {"continent": "", "country": "", "city": "", "longitude": 0, "latitude": 0, "timezone": ""}
    with maxminddb.open_database(str(write_database(tmp_path / "a.mmdb"))) as database:

        def at(text: str, locale: str = "en") -> dict[str, Any]:
            return locate(database, public_address(text), locale)

        assert at("2.125.160.216")["city"] == "Boxford"
        assert at("::ffff:2.125.160.216") == at("2.125.160.216")
        assert at("2.125.160.216", "zh-CN")["country"] == "英国"
        assert at("2.125.160.216", "zh-cn") == at("2.125.160.216", "") == at("2.125.160.216", "xx")
        assert at("2001:218::1") == {
            "continent": "Asia", "country": "Japan", "city": "",
            "longitude": 139.75309, "latitude": 35.68536, "timezone": "Asia/Tokyo",
        }  # fmt: skip
        assert at("8.8.8.8") == at("::") == nowhere


class Odd:
    """A database whose records are not what one expects."""

    def __init__(self, record: Any) -> None:
        self.record = record

    def get(self, ip_address: object) -> Any:
        if isinstance(self.record, Exception):
            raise self.record
        return self.record


@given(JSON | st.just(ValueError("IPv6 in a database of IPv4")))
def test_an_unexpected_record_of_the_database_is_no_error(record: Any) -> None:
    for whole in (
        record,
        {"continent": record, "city": {"names": record}, "location": {"longitude": record}},
    ):
        if isinstance(whole, dict) and isinstance(record, Exception):
            continue
        found = locate(Odd(whole), public_address("8.8.8.8"), "en")
        assert {name: type(value) in (str, int, float) for name, value in found.items()} == dict.fromkeys(
            ["continent", "country", "city", "longitude", "latitude", "timezone"], True
        )


def test_whole_numbers_have_no_fraction() -> None:
    found = locate(Odd({"location": {"longitude": 2.0, "latitude": -0.5}}), public_address("8.8.8.8"), "en")
    assert (str(found["longitude"]), str(found["latitude"])) == ("2", "-0.5")
