"""The messages that both sides know by name: their fields, in the order of the Go client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IPLOCATION = "iplocation"  # action
SENDVERIFYEMAIL = "sendverifyemail"  # action
ACCOUNTADDEMAIL = "accountaddemail"  # audit


@dataclass(frozen=True, slots=True, kw_only=True)
class IPLocation:
    """Where an IP address is. An address that the database does not know has "" and 0 everywhere."""

    continent: str = ""
    country: str = ""
    city: str = ""
    longitude: float = 0.0  # degrees, east positive
    latitude: float = 0.0  # degrees, north positive
    timezone: str = ""  # IANA name

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any] | None) -> IPLocation:
        """Raises ValueError, naming the field, for a wrong type. Keys in any case, null is the zero value."""
        given = {str(key).casefold(): value for key, value in (payload or {}).items() if value is not None}
        return cls(
            **{name: _text(given, name) for name in ("continent", "country", "city", "timezone")},
            longitude=_number(given, "longitude"),
            latitude=_number(given, "latitude"),
        )


def iplocation(ipaddr: str, locale: str = "") -> dict[str, Any]:
    """The payload that asks where ``ipaddr`` is, with names in ``locale`` (``zh-CN``; else English)."""
    return {"ipaddr": ipaddr, "locale": locale}


def sendverifyemail(
    *, subject: str, userid: str, to: str, href: str, locale: str, expire: str
) -> dict[str, Any]:
    """The payload that has a verification mail sent; ``expire`` is a text such as "24 hours"."""
    return {"subject": subject, "userid": userid, "to": to, "href": href, "locale": locale, "expire": expire}


def accountaddemail(
    *, newemail: str, userid: str, httpurl: str, locale: str, mailto: Sequence[str] | None, subject: str
) -> dict[str, Any]:
    """The payload that says that ``newemail`` was added to an account; ``mailto`` is to be told."""
    if isinstance(mailto, str):
        raise TypeError("mailto is a list of addresses, not one")
    return {
        "newemail": newemail,
        "userid": userid,
        "httpurl": httpurl,
        "locale": locale,
        "mailto": None if mailto is None else list(mailto),
        "subject": subject,
    }


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a string")  # noqa: TRY004 -- the other side's mistake, not misuse
    return value


def _number(given: Mapping[str, Any], name: str) -> float:
    value = given.get(name, 0)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{name} is not a number")  # noqa: TRY004
    return float(value)
