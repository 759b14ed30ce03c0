"""The errors of MSS, as one tree.

MssError
├── PolicyError            the policy in rules/ is not usable; carries every Problem
├── SettingsError          mss.yaml is not usable; carries every Problem
├── UndecodableError       a message on an event subject that is not an event
├── TemplateError          a template that cannot be rendered for one recipient
├── NotRedrivable          a dead letter that cannot be redriven
├── InvalidBucket          a policy bucket without a policy, or with one that cannot be read
├── InvalidPreferences     preferences that a user cannot have; carries every reason
├── CacheMiss              preferences that are not cached; the caller has to read them
├── RevisionNotFound       a revision that a policy bucket does not have
├── ChannelError           how a channel's send() ends when it does not succeed
│   ├── Refused            not sent; a retry is pointless
│   ├── Deferred           not sent; a retry may succeed
│   └── Unknown            the message may have been sent
└── BrokerError            NATS does not do what MSS needs
    ├── BrokerLost         the connection is closed for good; a new one is needed
    ├── BrokerUnsupported  wrong version, no JetStream, another stream on our subjects, a missing permission
    ├── NotPermitted       the broker's permissions do not allow us a subject
    ├── MessageNotFound    a message that is no longer in its stream
    ├── MaxPayloadExceeded more than the broker's max_payload, headers included
    └── NotStored          the broker refused to store a message
"""

from __future__ import annotations

from collections.abc import Sequence

from .problems import Problem


class MssError(Exception):
    """Any error that MSS raises on purpose."""


class _ProblemsError(MssError):
    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class PolicyError(_ProblemsError):
    """A policy with problems of severity error; no part of it may be used."""


class SettingsError(_ProblemsError):
    """An mss.yaml with problems; the server does not start."""


class UndecodableError(MssError):
    """A message that is not an event. ``reason`` is a short constant for metrics and dead letters."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class TemplateError(MssError):
    """A template that cannot be compiled, or that cannot be rendered for an event."""

    def __init__(self, detail: str, *, line: int | None = None) -> None:
        super().__init__(detail)
        self.line = line  # in the template file, from 1; None if Jinja2 does not report it


class NotRedrivable(MssError):
    """A dead letter that cannot be redriven; the text is the reason."""


class InvalidBucket(MssError):
    """A policy bucket without a usable policy; the text is the reason."""


class InvalidPreferences(MssError):
    """Preferences that cannot be stored; ``reasons`` are texts for the user."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


class CacheMiss(MssError):
    """The preferences of ``user`` are not cached: read them, then plan again."""

    def __init__(self, user: str) -> None:
        super().__init__("the preferences of a user are not cached")
        self.user = user


class RevisionNotFound(MssError):
    """A revision that was never pushed, or a push that lost against another one; the text says which."""


class ChannelError(MssError):
    """A send that did not succeed. The text is for operators and quotes the provider."""


class Refused(ChannelError):
    """A message that was not sent; a retry would end the same."""


class Deferred(ChannelError):
    """A message that was not sent; a retry may succeed.

    With ``remaining``, the other addresses of the delivery were served and only these were not.
    """

    def __init__(
        self,
        detail: str,
        *,
        retry_after: float | None = None,
        remaining: tuple[str, ...] = (),
        of_recipient: bool = False,
    ) -> None:
        super().__init__(detail)
        self.retry_after = retry_after  # seconds, if the provider asks for a delay
        self.remaining = remaining
        self.of_recipient = of_recipient  # the provider works, but accepts nothing for this recipient now

    @property
    def provider_works(self) -> bool:
        """True if other deliveries may succeed at this moment."""
        return self.of_recipient or bool(self.remaining)


class Unknown(ChannelError):
    """A message that may have been sent: the provider did not answer after it had received it."""


class BrokerError(MssError):
    """A request that NATS cannot serve."""


class BrokerLost(BrokerError):
    """A client that is closed and does not reconnect by itself."""


class BrokerUnsupported(BrokerError):
    """A server that lacks what MSS needs; the text names it and the remedy."""


class NotPermitted(BrokerError):
    """An operation that the broker's permissions do not allow; the text is the broker's."""


class MessageNotFound(BrokerError):
    """A message that was removed or never existed."""


class MaxPayloadExceeded(BrokerError):
    """A payload that exceeds the broker's max_payload together with its headers."""


class NotStored(BrokerError):
    """A publish that a stream answered with an error."""


def innermost(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first error of a task group for a message: the others are usually its consequences."""
    first = group.exceptions[0]
    return innermost(first) if isinstance(first, BaseExceptionGroup) else first
