"""What MSS counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one server. Labels come from configuration, never from payloads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._samples: dict[tuple[Counter | str, ...], Counter] = {}
        self.events = Counter(
            "mss_events",
            "Events taken from the streams, by what became of them: planned, unmatched, dead",
            ["kind", "result"],
            registry=self.registry,
        )
        self.matches = Counter(
            "mss_rule_matches", "Events that satisfied a rule", ["rule"], registry=self.registry
        )
        self.suppressed = Counter(
            "mss_deliveries_suppressed",
            "Deliveries asked for by a rule and not made",
            ["rule", "reason"],
            registry=self.registry,
        )
        self.held = Counter(
            "mss_deliveries_held",
            "Deliveries that were made and wait for their time",
            ["rule", "reason"],
            registry=self.registry,
        )
        self.attempts = Counter(
            "mss_delivery_attempts",
            "Sends over a channel, by outcome: sent, refused, deferred, unknown",
            ["channel", "outcome"],
            registry=self.registry,
        )
        self.dead = Counter(
            "mss_dead_letters", "Messages given up", ["kind", "reason"], registry=self.registry
        )
        self.fall_backs = Counter(
            "mss_delivery_fallbacks",
            "Deliveries that definitely failed over a channel and went on over the next of their chain",
            ["channel"],
            registry=self.registry,
        )
        self.preferences = Counter(
            "mss_preference_lookups",
            "Look-ups of a person's preferences: hit (at hand), miss (the broker was asked), unreadable",
            ["result"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "mss_delivery_latency_seconds",
            "From the broker taking an event to a channel's other side taking the message",
            ["channel"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 600, 3600),
            registry=self.registry,
        )
        self.actions = Counter(
            "mss_action_requests",
            "Requests for an action, by the code of the reply; 100: there was nobody to reply to",
            ["action", "code"],
            registry=self.registry,
        )
        self.action_latency = Histogram(
            "mss_action_request_duration_seconds",
            "From a request being here to its reply",
            ["action"],
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30, 60),
            registry=self.registry,
        )
        self.databases = Gauge(
            "mss_action_database_up",
            "1 while the database that an action reads could be read when it was last looked at",
            ["action"],
            registry=self.registry,
        )
        self.reloads = Counter(
            "mss_policy_reloads",
            "Reloads, by how they ended: ok, refused",
            ["result"],
            registry=self.registry,
        )
        self.reload_ok = Gauge(
            "mss_policy_last_reload_successful",
            "1 unless the last reload was refused",
            registry=self.registry,
        )
        self.reload_ok.set(1)
        self.reload_time = Gauge(
            "mss_policy_last_reload_success_timestamp_seconds",
            "When a policy was last read without an error, in seconds since 1970",
            registry=self.registry,
        )
        self.reload_problems = Gauge(
            "mss_policy_reload_problem_info",
            "1 for each problem, of at most 20, that kept the last reload from going through",
            ["file", "line", "column", "code"],
            registry=self.registry,
        )
        self.source_up = Gauge(
            "mss_policy_source_up",
            "1 while the policy could be read where it lies when it was last looked at",
            registry=self.registry,
        )
        self.rules = Gauge("mss_policy_rules", "Rules in force", registry=self.registry)
        self.revision = Gauge(
            "mss_policy_info",
            "1 for the revision of the policy in force",
            ["revision"],
            registry=self.registry,
        )

    def count(self, counter: Counter, *labels: str) -> None:
        """Add one to the sample of ``counter`` with ``labels``, which is looked for once."""
        sample = self._samples.get((counter, *labels))
        if sample is None:
            sample = self._samples[counter, *labels] = counter.labels(*labels)
        sample.inc()

    def value(self, name: str, **labels: str) -> float:
        """The present value of one sample; 0 where there is none yet."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def page(self) -> bytes:
        """Everything in the Prometheus text format."""
        return generate_latest(self.registry)
