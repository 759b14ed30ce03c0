"""The fields of the actions that Go programs ask for: what a policy is checked against."""

from __future__ import annotations

from collections.abc import Mapping

# Field -> what the original calls it in its messages. All are texts.
SHAPES: dict[str, Mapping[str, str]] = {
    "iplocation": {"ipaddr": "IpAddr", "locale": "Locale"},
    "sendverifyemail": {
        "subject": "Subject",
        "userid": "UserId",
        "to": "To",
        "href": "Href",
        "locale": "Locale",
        "expire": "Expire",
    },
}
ANY: Mapping[str, str] = {}  # the shape of an action that is known to nobody
