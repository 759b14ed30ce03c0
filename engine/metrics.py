"""The Prometheus metrics of one server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BREAKER_STATES = ("closed", "open", "half_open")
_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300)  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """The present state of one channel."""

    channel: str
    in_flight: int  # deliveries taken and not yet acknowledged
    breaker: str  # state of the circuit breaker: closed, open, half_open


class ChannelMetrics(Collector):
    """Gauges of the channels, read when Prometheus scrapes. A channel that has ended has no samples."""

    def __init__(self) -> None:
        self.read: Callable[[], Iterable[ChannelState]] = tuple

    def collect(self) -> Iterator[GaugeMetricFamily]:
        in_flight = GaugeMetricFamily(
            "mss_deliveries_in_flight",
            "Deliveries that this server is sending or that wait for their turn, by channel.",
            labels=["channel"],
        )
        breaker = GaugeMetricFamily(
            "mss_channel_circuit_breaker_state",
            "1 for the present state of the channel's circuit breaker, 0 for its other states.",
            labels=["channel", "state"],
        )
        for each in self.read():
            in_flight.add_metric([each.channel], each.in_flight)
            for state in _BREAKER_STATES:
                breaker.add_metric([each.channel, state], float(state == each.breaker))
        yield in_flight
        yield breaker


class Metrics:
    """The metrics of one server. Labels come from the configuration, never from payloads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._samples: dict[tuple[Counter | str, ...], Counter] = {}
        self.channels = ChannelMetrics()
        self.registry.register(self.channels)
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.events = counter(
            "mss_events",
            "Events taken from the streams, by result: planned, unmatched, dead.",
            ["kind", "result"],
        )
        self.matches = counter("mss_rule_matches", "Events that matched a rule.", ["rule"])
        self.suppressed = counter(
            "mss_deliveries_suppressed",
            "Deliveries that a rule asks for and MSS does not make, by reason.",
            ["rule", "reason"],
        )
        self.held = counter(
            "mss_deliveries_held", "Deliveries that wait for a later time, by reason.", ["rule", "reason"]
        )
        self.attempts = counter(
            "mss_delivery_attempts",
            "Delivery attempts, by outcome: sent, refused, deferred, unknown.",
            ["channel", "outcome"],
        )
        self.dead = counter(
            "mss_dead_letters", "Dead letters, by kind of event and reason.", ["kind", "reason"]
        )
        self.fallbacks = counter(
            "mss_delivery_fallbacks",
            "Deliveries that failed over a channel and fell back to the next channel of their chain.",
            ["channel"],
        )
        self.preferences = counter(
            "mss_preference_lookups",
            "Lookups of a user's preferences: hit (cached), miss (read from the broker), unreadable.",
            ["result"],
        )
        self.latency = histogram(
            "mss_delivery_latency_seconds",
            "Seconds from the broker storing an event to the provider accepting the message.",
            ["channel"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 600, 3600),
        )
        self.rate_limiter_wait = histogram(
            "mss_channel_rate_limiter_wait_seconds",
            "Seconds that a delivery waited for the rate limit of its channel.",
            ["channel"],
            buckets=_WAITS,
        )
        self.pending = gauge(
            "mss_consumer_pending_messages",
            "Messages of a stream that the broker has not handed to any server yet, by durable consumer.",
            ["stream", "consumer"],
        )
        self.unacknowledged = gauge(
            "mss_consumer_ack_pending_messages",
            "Messages handed to a server and not yet acknowledged, by durable consumer.",
            ["stream", "consumer"],
        )
        self.unplanned_age = gauge(
            "mss_event_oldest_unplanned_age_seconds",
            "Age of the oldest event that is not planned yet, by kind; 0 without one. Read once a minute.",
            ["kind"],
        )
        self.actions = counter(
            "mss_action_requests",
            "Requests for an action, by the code of the reply; 100: the request had no reply subject.",
            ["action", "code"],
        )
        self.action_latency = histogram(
            "mss_action_request_duration_seconds",
            "Seconds from the arrival of a request to its reply.",
            ["action"],
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30, 60),
        )
        self.databases = gauge(
            "mss_action_database_up",
            "1 if the last read of the action's database succeeded, else 0.",
            ["action"],
        )
        self.reloads = counter("mss_policy_reloads", "Policy reloads, by result: ok, refused.", ["result"])
        self.reload_ok = gauge(
            "mss_policy_last_reload_successful", "1 if the last reload succeeded, 0 if it was refused."
        )
        self.reload_ok.set(1)
        self.reload_time = gauge(
            "mss_policy_last_reload_success_timestamp_seconds",
            "Time of the last successful reload, in seconds since the epoch.",
        )
        self.reload_problems = gauge(
            "mss_policy_reload_problem_info",
            "1 for each problem that refused the last reload, for at most 20 problems.",
            ["file", "line", "column", "code"],
        )
        self.source_up = gauge(
            "mss_policy_source_up", "1 if the last read of the policy source succeeded, else 0."
        )
        self.rules = gauge("mss_policy_rules", "Rules of the active revision.")
        self.revision = gauge("mss_policy_info", "1 for the active revision.", ["revision"])

    def show_lags(self, lags: Mapping[tuple[str, str], tuple[int, int]]) -> None:
        """Replace the lag of all consumers: (stream, consumer) -> pending, acknowledgement pending."""
        self.pending.clear()
        self.unacknowledged.clear()
        for names, (pending, unacknowledged) in lags.items():
            self.pending.labels(*names).set(pending)
            self.unacknowledged.labels(*names).set(unacknowledged)

    def count(self, counter: Counter, *labels: str) -> None:
        """Add one to the sample of ``counter`` with ``labels``. Samples are cached: a look-up is slow."""
        sample = self._samples.get((counter, *labels))
        if sample is None:
            sample = self._samples[counter, *labels] = counter.labels(*labels)
        sample.inc()

    def value(self, name: str, **labels: str) -> float:
        """Return the present value of one sample; 0 if it has none yet."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def page(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
