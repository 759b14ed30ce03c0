"""The metrics: their names, their help texts, and the gauges that are read at a scrape."""

from __future__ import annotations

import re

import pytest

from engine.metrics import ChannelState, Metrics

EXPOSED = {"counter": "_total"}  # the suffix that a type adds to the name of its family


def families() -> dict[str, str]:
    """The name of each metric as Prometheus shows it, and its help text."""
    found = Metrics().registry.collect()
    return {each.name + EXPOSED.get(each.type, ""): each.documentation for each in found}


@pytest.mark.parametrize("name", sorted(families()))
def test_a_metric_is_named_and_explained_by_the_conventions_of_prometheus(name: str) -> None:
    assert re.fullmatch(r"mss(_[a-z]+)+", name)
    assert not re.search(r"_(ms|milliseconds|minutes|count|sum|bucket)(_total)?$", name)
    assert families()[name].endswith(".") and families()[name][0] in "ABCDEFGHIJKLMNOPQRSTUVWXYZ1"


def test_a_scrape_shows_each_channel_with_its_deliveries_and_its_circuit_breaker() -> None:
    metrics = Metrics()
    metrics.channels.read = lambda: [ChannelState(channel="email", in_flight=3, breaker="half_open")]
    assert metrics.value("mss_deliveries_in_flight", channel="email") == 3
    states = {
        state: metrics.value("mss_channel_circuit_breaker_state", channel="email", state=state)
        for state in ("closed", "open", "half_open")
    }
    assert states == {"closed": 0, "open": 0, "half_open": 1}
    metrics.channels.read = tuple
    assert b'channel="email"' not in metrics.page()


def test_a_consumer_that_the_broker_does_not_report_has_no_lag() -> None:
    metrics = Metrics()
    metrics.show_lags({("MSS_NOTICE", "mss-planner"): (7, 2)})
    labels = {"stream": "MSS_NOTICE", "consumer": "mss-planner"}
    assert metrics.value("mss_consumer_pending_messages", **labels) == 7
    assert metrics.value("mss_consumer_ack_pending_messages", **labels) == 2
    metrics.show_lags({})
    assert b"mss-planner" not in metrics.page()
