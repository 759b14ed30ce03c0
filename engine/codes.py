"""Every code that a problem may have, in the order of docs/problems.md, which has a section for each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """What a code stands for, and how bad it usually is."""

    meaning: str
    severity: str = "error"


_WARNING = "warning"

CODES: dict[str, Code] = {
    # files
    "unreadable": Code("A file or folder that cannot be read."),
    "symlink-loop": Code("A folder that leads back to itself."),
    "too-many-files": Code("More files than a policy may have."),
    "file-too-big": Code("A file, or all files together, larger than a policy may have."),
    "binary": Code("A character that a text file cannot have."),
    "not-utf8": Code("A file in another encoding than UTF-8."),
    # YAML
    "yaml-syntax": Code("Text that is not YAML."),
    "yaml-tab": Code("A tab among the indentation."),
    "duplicate-key": Code("The same key twice in one mapping."),
    "yaml-documents": Code("More than one document in a file."),
    "yaml-key": Code("A key that is no plain text."),
    "yaml-merge": Code("The merge key << of YAML 1.1."),
    "yaml-alias": Code("An alias that leads nowhere, or into itself."),
    "yaml-tag": Code("A tag that is not understood."),
    "yaml-number": Code("A number that cannot be represented."),
    "yaml-too-big": Code("More values than are read, aliases written out."),
    "yaml-too-deep": Code("Mappings and lists nested too deep."),
    # what the schema refuses
    "unknown-key": Code("A key that is not in the language."),
    "missing-key": Code("A key that has to be there and is not."),
    "wrong-type": Code("A value of another type."),
    "bad-format": Code("Text of another form."),
    "not-allowed": Code("A value that is none of those allowed."),
    "out-of-range": Code("A number, or a number of entries, beyond its bounds."),
    "empty": Code("Nothing where something has to be."),
    "bad-value": Code("A value that the schema does not allow."),
    "too-deep": Code("Conditions or values nested too deep to be checked."),
    "bad-schema": Code("A payload schema that is no JSON Schema."),
    "schema-path": Code("A payload schema in a place where none is looked for."),
    # names
    "defined-twice": Code("The same name, id or test twice."),
    "unknown-channel": Code("A channel that is not defined."),
    "unknown-person": Code("A person who is not defined."),
    "unknown-interval": Code("A time interval that is not defined."),
    "unknown-zone": Code("A time zone that does not exist."),
    "unknown-rule": Code("A test that names a rule which is not there."),
    "unknown-action": Code("A test that asks for an action which is not there."),
    "unknown-event": Code("An event that the catalogue does not describe.", _WARNING),
    "bad-event": Code("An event pattern that NATS does not know."),
    # conditions
    "bad-path": Code("Text that is no path into a payload."),
    "invalid-condition-block": Code("A value that is not a block of conditions."),
    "unknown-operator": Code("An operator that does not exist."),
    "bad-argument": Code("An operator's argument that makes no sense."),
    "missing-operator": Code("An empty mapping instead of operators."),
    "empty-range": Code("Bounds that no number is within."),
    "exists-inside": Code("exists inside not or any_of."),
    "exists-with-others": Code("exists: false beside operators that need a value."),
    # conditions and the event's payload
    "unknown-path": Code("A path that the event's schema does not have."),
    "operator-type": Code("An operator that cannot hold for the field's type."),
    "impossible-value": Code("A value that the field can never have."),
    "never-matches": Code("Conditions that exclude each other.", _WARNING),
    "hidden-rule": Code("A rule that an earlier one with stop keeps from ever being reached.", _WARNING),
    # fall-back chains
    "duplicate-fallback": Code("A fallback chain with the same channel and recipients twice."),
    "redundant-fallback": Code("A fallback over a channel that the rule uses anyway.", _WARNING),
    "fallback-timeout": Code("A `within` shorter than one attempt, or longer than all of them.", _WARNING),
    # channels and people
    "unset-variable": Code("An environment variable that is not set."),
    "plaintext-secret": Code("A secret in plain text in the policy."),
    "missing-address": Code("{to} in a URL, and nothing that says which address stands there."),
    "unusable-channel": Code("Settings with which the channel would not open."),
    "bad-address": Code("An address that is none of its kind."),
    "no-address": Code("A channel that needs an address nobody gives."),
    # time
    "bad-window": Code("Text that is no part of a day."),
    "bad-range": Code("Days, months or years that are none."),
    "empty-interval": Code("A time interval that no day is in."),
    "always-muted": Code("Time intervals that mute a rule at all times.", _WARNING),
    # people and limits
    "preferred-without-allow": Code("`preferred` without `allow`."),
    "unused-allow": Code("Channels to choose from, and nothing that asks for the choice.", _WARNING),
    "reserved-name": Code("A channel with a name that means something else."),
    "category-without-channel": Code("A category without a channel to choose.", _WARNING),
    "ineffective-throttle": Code("A throttle that never takes effect.", _WARNING),
    "delayed-critical": Code("A digest that delays a critical rule.", _WARNING),
    "bad-preference": Code("A preference in a test that nobody could choose."),
    # actions
    "unusable-action": Code("Settings with which the action's handler would not start."),
    "overlapping-action": Code("An action on a subject on which another is asked for about a person."),
    "untestable-action": Code("A test that asks for an action which cannot be tried."),
    "reply-count": Code("A test with another number of replies than of requests."),
    # templates
    "template-path": Code("A template file in a place where none is looked for."),
    "template-syntax": Code("A template that Jinja2 does not read."),
    "template-mjml": Code("A template that is not MJML."),
    "template-twice": Code("Two files with the same words."),
    "front-matter": Code("Front matter that never ends."),
    "missing-template": Code("A template that is not there, or has no words for the channel."),
    "missing-subject": Code("A mail without a subject."),
    "unknown-variable": Code("A variable that no template is given."),
    "unknown-field": Code("A field of a variable that is never there."),
    "missing-locale": Code("A language that one template speaks and another does not.", _WARNING),
    # left over
    "unused-channel": Code("A channel that no rule uses.", _WARNING),
    "unused-person": Code("A person whom no rule tells.", _WARNING),
    "unused-interval": Code("A time interval that no rule uses.", _WARNING),
    "unused-template": Code("A template that no rule uses.", _WARNING),
    "untested-rule": Code("A rule that no test tries.", _WARNING),
    # of a reload
    "policy-test-failed": Code("A policy test that fails, so the reload is refused."),
    "reload-failed": Code("A reload that fails for a reason outside the policy."),
}  # fmt: skip
