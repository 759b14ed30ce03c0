"""The errors of MSS, as one tree.

MssError
├── PolicyError            the policy in rules/ is not usable; carries every Problem
├── SettingsError          mss.yaml is not usable; carries every Problem
├── UndecodableError       a message on an event subject that is no event
├── TemplateError          a template could not be rendered for one recipient
├── StaysDead              a dead letter that cannot be brought back
├── BadBucket              a policy bucket without a policy, or with one that cannot be read
├── BadPreferences         what a person chose cannot be taken; carries every reason
├── NotLookedUp            what a person chose is not at hand; it has to be asked for
├── NotPushed              a revision that a policy bucket does not have, or not any more
├── ChannelError           how a channel's send() ends when it does not succeed
│   ├── Refused            never will; trying again is pointless
│   ├── Deferred           nothing went out; it may later
│   └── Unknown            it may have gone out
└── BrokerError            NATS does not do what MSS needs
    ├── BrokerLost         the connection is closed for good and must be made anew
    ├── BrokerUnfit        wrong version, no JetStream, a stream in the way, a permission missing
    ├── NotPermitted       the broker's permissions do not allow us a subject
    ├── NotThere           a message that is in no stream any more
    ├── MessageTooLarge    more than the broker's max_payload, headers included
    └── NotStored          the broker refused to store a message
"""

from __future__ import annotations

from collections.abc import Sequence

from .problems import Problem


class MssError(Exception):
    """Any error that MSS raises on purpose."""


class PolicyError(MssError):
    """The policy has problems of severity error; nothing of it may be used."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class SettingsError(MssError):
    """mss.yaml has problems; the server does not start."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class UndecodableError(MssError):
    """A message that is no event. ``reason`` is a short stable word for metrics and dead letters."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class TemplateError(MssError):
    """A template that cannot be compiled, or rendered with what the event brought."""

    def __init__(self, detail: str, *, line: int | None = None) -> None:
        super().__init__(detail)
        self.line = line  # in the template file, from 1; None where the engine does not tell


class NotRedrivable(MssError):
    """A dead letter that cannot be brought back; the text says why."""


class InvalidBucket(MssError):
    """What lies in a policy bucket is no policy; the text says why."""


class InvalidPreferences(MssError):
    """What a person has chosen cannot be taken as it is; ``reasons`` are in words for them."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


class CacheMiss(MssError):
    """What ``user`` has chosen is not at hand: ask for it, and plan again."""

    def __init__(self, user: str) -> None:
        super().__init__("somebody's preferences are not at hand")
        self.user = user


class RevisionNotFound(MssError):
    """A revision that nobody has pushed, or a push that came too late; the text says which."""


class ChannelError(MssError):
    """A send that did not end well. The text is for operators: the other side's own words."""


class Refused(ChannelError):
    """Definitely not sent, and trying again would end the same."""


class Deferred(ChannelError):
    """Definitely not sent; worth another try.

    With ``remaining``, the other addresses of the delivery have been served, and only these not.
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
        self.retry_after = retry_after  # seconds, where the other side said so
        self.remaining = remaining
        self.of_recipient = of_recipient  # the other side works, and takes nothing for this one now

    @property
    def provider_works(self) -> bool:
        """Whether other deliveries may fare better at this moment."""
        return self.of_recipient or bool(self.remaining)


class Unknown(ChannelError):
    """It may have gone out: the other side fell silent after it had the message."""


class BrokerError(MssError):
    """NATS cannot do what was asked."""


class BrokerLost(BrokerError):
    """The client is closed and does not come back by itself."""


class BrokerUnsupported(BrokerError):
    """The server lacks what MSS needs: the message says what, and what to do."""


class NotPermitted(BrokerError):
    """The broker's permissions do not allow us what was tried; the text is the broker's."""


class MessageNotFound(BrokerError):
    """A message that was removed, or never was."""


class MaxPayloadExceeded(BrokerError):
    """Payload and headers together are beyond the broker's max_payload."""


class NotStored(BrokerError):
    """A stream answered a publish with an error."""


def innermost(group: BaseExceptionGroup[Exception]) -> Exception:
    """The first error of a task group, for a message: the others are mostly its consequences."""
    first = group.exceptions[0]
    return innermost(first) if isinstance(first, BaseExceptionGroup) else first
