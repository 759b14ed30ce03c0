"""The names of the streams, consumers, buckets and subjects of MSS."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.messages import Kind
from ..settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The names of everything that MSS has on the broker, and how long messages are kept."""

    prefix: str = "kiam.console"  # of the applications' subjects
    namespace: str = "mss"  # of the subjects of MSS
    streams: str = "MSS"  # of stream and bucket names
    replicas: int = 1
    kinds: tuple[Kind, ...] = tuple(Kind)  # that are enabled
    archive_age: float = 7 * 86400.0  # seconds
    history_age: float = 30 * 86400.0
    dead_age: float = 30 * 86400.0
    ledger_age: float = 86400.0
    ack_wait: float = 10.0  # seconds after which an unacknowledged message is redelivered

    @classmethod
    def of(cls, settings: Settings) -> Topology:
        """Return the names that ``settings`` ask for."""
        return cls(
            prefix=settings.prefix,
            namespace=settings.namespace,
            streams=settings.stream_prefix,
            replicas=settings.replicas,
            kinds=settings.kinds,
            archive_age=settings.archive_age,
            history_age=settings.history_age,
            dead_age=settings.dead_age,
            ledger_age=settings.ledger_age,
            ack_wait=settings.ack_wait,
        )

    def subjects(self, kind: Kind) -> list[str]:
        """Return the applications' subjects of one kind."""
        whole = f"{self.prefix}.{kind}"
        return [whole, f"{whole}.>"] if kind is Kind.LOG else [f"{whole}.>"]

    def key(self, kind: Kind, subject: str) -> str:
        """Return the key in a subject of ``kind``."""
        return subject.removeprefix(f"{self.prefix}.{kind}").removeprefix(".")

    def stream(self, kind: Kind) -> str:
        return f"{self.streams}_{kind.upper()}"

    @property
    def delivery_stream(self) -> str:
        return f"{self.streams}_DELIVERY"

    @property
    def dead_stream(self) -> str:
        return f"{self.streams}_DEAD"

    @property
    def history_stream(self) -> str:
        return f"{self.streams}_HISTORY"

    @property
    def planner(self) -> str:
        """The durable consumer of every event stream."""
        return f"{self.namespace}-planner"

    def worker(self, channel: str) -> str:
        """Return the durable consumer of one channel on the delivery stream."""
        return f"{self.namespace}-channel-{channel}"

    def delivery_subject(self, kind: Kind | str, channel: str) -> str:
        return f"{self.namespace}.delivery.{kind}.{channel}"

    def history_subject(self, kind: Kind, reqid_token: str) -> str:
        return f"{self.namespace}.history.{kind}.{reqid_token}"

    def dead_subject(self, kind: Kind, reason: str) -> str:
        return f"{self.namespace}.dead.{kind}.{reason}"

    @property
    def timer_stream(self) -> str:
        return f"{self.streams}_TIMER"

    def timer_subject(self, what: str, id_: str) -> str:
        """Return the subject where a message waits for its time; there is one message for each id."""
        return f"{self.namespace}.timer.{what}.{id_}"

    def due_subject(self, what: str, subject: str) -> str:
        """Return the subject to which the broker moves a due message; ``subject`` is its final one."""
        return f"{self.namespace}.due.{what}.{subject.removeprefix(f'{self.namespace}.')}"

    def delivery_of_due(self, subject: str) -> str:
        """Return the delivery subject for a message on a due subject."""
        return self.namespace + subject.removeprefix(f"{self.namespace}.due.delivery")

    @property
    def delivery_timer_worker(self) -> str:
        """The durable consumer of the deliveries that are due."""
        return f"{self.namespace}-due-delivery"

    @property
    def digest_timer_worker(self) -> str:
        """The durable consumer of the digests that are due."""
        return f"{self.namespace}-due-digest"

    def bucket(self, name: str) -> str:
        return f"{self.streams}_{name}"
