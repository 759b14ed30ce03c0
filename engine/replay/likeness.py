"""Whether two policies can differ in what they make of an event, found out without writing words.

Nothing said here is a guess: what is alike leads to the same, and what is not may still lead to it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields

from ..draft import Draft, Order
from ..errors import TemplateError
from ..model import Event
from ..plan import find_words
from ..rulebook import Entry, Notify, Rule, Rulebook

# Of rules and their entries what has done its work once they match, or is compared in another way.
_ELSEWHERE_OF_RULES = ("priority", "place", "stop", "events", "when", "notify")
_ELSEWHERE_OF_ENTRIES = ("when", "steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two policies. ``prints`` tell whether templates say the same (``template_prints``)."""

    rulebook: Rulebook
    prints: Mapping[str, str] = field(repr=False)


class Likeness:
    """What is alike in two policies; what was found out once is remembered."""

    def __init__(self, live: Side, new: Side) -> None:
        self.live, self.new = live, new
        self._alike: dict[tuple[int, int], bool] = {}  # pairs of rules
        self._worded_alike: dict[tuple[int, int, int, int], bool] = {}  # pairs of rules and their entries
        self._marked_alike: dict[str, bool] = {}  # events whose payload schemas say the same

    def of_drafts(self, before: Draft, event: Event) -> bool:
        """Whether the new policy's draft of ``event`` must be as the live one's."""
        matches = self.new.rulebook.match(event)
        return (
            len(matches) == len(before.matches)
            and all(
                # What limits make of it depends on what came before, under either policy.
                its.rule.limits.are_none and self._rules_alike(mine.rule, its.rule)
                for mine, its in zip(before.matches, matches, strict=True)
            )
            and self._events_alike(event.name)
            and before.event.payload == event.payload
        )

    def _rules_alike(self, mine: Rule, its: Rule) -> bool:
        key = id(mine), id(its)
        if key not in self._alike:
            self._alike[key] = (
                _rest(mine, _ELSEWHERE_OF_RULES) == _rest(its, _ELSEWHERE_OF_RULES)
                and len(mine.notify) == len(its.notify)
                and self._people_alike(mine.to.person)
                and all(
                    self._entries_alike(mine, a, its, b) for a, b in zip(mine.notify, its.notify, strict=True)
                )
            )
        return self._alike[key]

    def _entries_alike(self, mine: Rule, a: Entry, its: Rule, b: Entry) -> bool:
        if repr(a.when and a.when.source) != repr(b.when and b.when.source):  # 1 is True, and not here
            return False
        if _rest(a, _ELSEWHERE_OF_ENTRIES) != _rest(b, _ELSEWHERE_OF_ENTRIES):
            return False
        if not (isinstance(a, Notify) and isinstance(b, Notify)):
            steps = _steps_of(a), _steps_of(b)
            return (
                type(a) is type(b)
                and len(steps[0]) == len(steps[1])
                and all(self._entries_alike(mine, x, its, y) for x, y in zip(*steps, strict=True))
            )
        return (
            self._people_alike(a.to.person if a.to else "")
            and self._wording_alike(mine, a, its, b)
            and self._print(self.live, a.template or mine.template)
            == self._print(self.new, b.template or its.template)
        )

    @staticmethod
    def _print(side: Side, template: str) -> str:
        return side.prints.get(template, "")

    def _people_alike(self, name: str) -> bool:
        return not name or self.live.rulebook.people[name] == self.new.rulebook.people[name]

    def _events_alike(self, name: str) -> bool:
        if name not in self._marked_alike:
            mine, its = self.live.rulebook.catalogue.get(name), self.new.rulebook.catalogue.get(name)
            self._marked_alike[name] = (mine.roles if mine else {}) == (its.roles if its else {})
        return self._marked_alike[name]

    def of_orders(self, mine: Order, its: Order) -> bool:
        """Whether both become the same delivery."""
        return (
            mine.within == its.within
            and len(mine.steps) == len(its.steps)
            and all(self._steps_alike(a, b) for a, b in zip(mine.steps, its.steps, strict=True))
        )

    def _steps_alike(self, mine: Order, its: Order) -> bool:
        return (
            (mine.id, mine.to, mine.released) == (its.id, its.to, its.released)
            and (mine.recipient.user, mine.recipient.locale) == (its.recipient.user, its.recipient.locale)
            and self._wording_alike(mine.match.rule, mine.notify, its.match.rule, its.notify)
            and mine.match.event.payload == its.match.event.payload
            and mine.match.event.received == its.match.event.received  # digests of the same events differ
            and mine.merged == its.merged
            and (
                self._print(self.live, mine.template) == self._print(self.new, its.template)
                or _words(self.live, mine) == _words(self.new, its)
            )
        )

    def _wording_alike(self, mine: Rule, a: Notify, its: Rule, b: Notify) -> bool:
        """Whether all else that words are made from is the same, and the channel's ways too."""
        key = id(mine), id(a), id(its), id(b)
        if key not in self._worded_alike:
            self._worded_alike[key] = _surroundings(self.live, mine, a) == _surroundings(self.new, its, b)
        return self._worded_alike[key]


def _rest(part: Rule | Entry, elsewhere: Collection[str]) -> list[object]:
    """All that a rule or an entry says besides, also what later versions of the language add."""
    return [getattr(part, each.name) for each in fields(part) if each.name not in elsewhere]


def _steps_of(entry: Entry) -> tuple[Notify, ...]:
    """The channels of a chain, one after the other."""
    return (entry,) if isinstance(entry, Notify) else entry.steps


def _words(side: Side, order: Order) -> tuple[str, ...]:
    """The prints of the words that an order finds."""
    try:
        words = find_words(side.rulebook, order.template, order.channel, order.recipient.locale)
    except TemplateError:
        return ("missing",)
    if words is None:
        return ()
    variants = (each for each in (words.markup, words.text) if each is not None)
    return (words.locale, *(side.prints[each.path] for each in variants))


def _surroundings(side: Side, rule: Rule, notify: Notify) -> str:
    channel, defaults = side.rulebook.channels[notify.channel], side.rulebook.defaults
    given = ({**rule.vars, **notify.vars}, dict(defaults.site)) if channel.words else ()
    said = (defaults.locale, str(defaults.zone), rule.description, str(rule.severity))
    return repr((said, given, channel.name, channel.type, channel.address, channel.many, channel.words))
