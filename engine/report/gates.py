"""The gates of a rule in words, as ``mss explain`` says them; sensitive values are masked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from ..catalogue import mask, masked
from ..conditions import ConditionResult
from ..durations import in_units
from ..explain import format_value, sentence
from ..limits import Budget, Dedupe, Digest, Throttle
from ..passage import PreferenceReport, StageReport

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def stage_document(gate: StageReport, secrets: tuple[str, ...]) -> dict[str, Any]:
    """A gate as JSON: its name, what it counts under, whether a message gets as far, and the words."""
    return {
        "stage": gate.name,
        **({"key": masked(gate.key, secrets)} if gate.key else {}),
        "reached": gate.is_reached,
        "details": list(sentences_of(gate, secrets)),
    }


def sentences_of(gate: StageReport, secrets: tuple[str, ...]) -> Iterator[str]:
    """What there is to say of one gate, a sentence each."""
    if not gate.is_reached:
        yield "not asked: no message is left"
        return
    if gate.limit is not None:
        under = ", ".join(f"{path} {_values(found, secrets)}" for path, found in gate.key.items())
        by = f"by {under}: " if under else "of the whole policy: " if gate.is_shared else ""
        yield by + _limit(gate.limit)
    for chosen in gate.chosen:
        yield _preference_text(chosen)
    for channel, finding in gate.findings:
        yield f"{channel}: {sentence(masked_finding(finding, secrets))}"
    for suppressed in gate.suppressed:
        if not _is_said(gate, suppressed.channel):
            yield mask(f"{suppressed.channel}: {suppressed.detail or suppressed.reason}", secrets)
    for held in gate.held:
        yield f"{held.channel}: {held.reason}, it waits until {time_of(held.until)}"
    if gate.name == "time windows" and not (gate.suppressed or gate.held):
        yield "it may be sent now"


def time_of(at: int) -> str:
    """``at``, microseconds since the epoch, as people and programs read it."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="seconds")


def masked_finding(finding: ConditionResult, secrets: tuple[str, ...]) -> ConditionResult:
    """``finding`` without sensitive values."""
    return ConditionResult(
        path=finding.path,
        operator=finding.operator,
        expected=masked(finding.expected, secrets),
        actual=masked(finding.actual, secrets),
        present=finding.present,
        holds=finding.holds,
        inside=tuple(masked_finding(each, secrets) for each in finding.inside),
    )


def _limit(limit: Dedupe | Throttle | Digest | Budget) -> str:
    match limit:
        case Dedupe():
            return f"the first within {in_units(limit.window)} passes"
        case Throttle():
            return f"{limit.limit} pass in any {in_units(limit.per)}, {_rest(limit)}"
        case Digest():
            again = f", and {in_units(limit.interval)} after the digest before" if limit.interval else ""
            return f"told of together, {in_units(limit.wait)} after the first{again}"
        case Budget():
            return f"{limit.limit} messages in each {in_units(limit.per)}, {_rest(limit)}"


def _rest(limit: Throttle | Budget) -> str:
    return f"the rest is {'told of together' if limit.digest else 'not sent'}"


def _values(found: list[Any], secrets: tuple[str, ...]) -> str:
    """What lies at one path of a key; what is not there is alike too."""
    return ", ".join(format_value(masked(value, secrets)) for value in found) or "(not there)"


def _preference_text(chosen: PreferenceReport) -> str:
    if chosen.choices is None:
        return f"{chosen.user} has chosen nothing"
    about = f", for {chosen.category}" if chosen.category else ""
    words = {True: "on", False: "off", None: "not said"}
    said = ", ".join(f"{channel} {words[on]}" for channel, on in chosen.channels.items())
    critical = "; critical, so it is told all the same" if chosen.is_critical else ""
    return f"{chosen.user}{about}: {said}{critical}"


def _is_said(gate: StageReport, channel: str) -> bool:
    """Whether it is clear already why nothing goes over that channel."""
    return any(name == channel for name, _ in gate.findings) or any(
        each.channels.get(channel) is False for each in gate.chosen
    )
