"""What a policy means and should not: checked once all of it is compiled, over what was written.

Each module looks for one family of mistakes and complains about each where it stands.
"""

from __future__ import annotations

from ..cursors import Complaints
from . import chains, fields, leftovers, people, reach, words
from .fields import check as check_fields
from .policy import Policy, Surroundings, Written
from .secrets import check_secrets

__all__ = ["Policy", "Surroundings", "Written", "check", "check_fields", "check_secrets"]


def check(policy: Policy, complaints: Complaints, *, warn: bool) -> None:
    """Everything that needs the whole policy; unless ``warn``, nothing that only leads to warnings."""
    for written in policy.rules:
        fields.check(written, complaints)
    words.check(policy, complaints)
    chains.check(policy, complaints)
    if warn:
        reach.check(policy, complaints)
        people.check(policy, complaints)
        leftovers.check(policy, complaints)
