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
    "bad-block": Code("Something else where a block of conditions stands."),
    "unknown-operator": Code("An operator that does not exist."),
    "bad-argument": Code("An operator's argument that makes no sense."),
    "no-operator": Code("An empty mapping where operators stand."),
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
    "repeated-step": Code("A chain that comes back to the same channel and people."),
    "told-anyway": Code("A fall-back over a channel that the rule uses in any case.", _WARNING),
    "odd-within": Code("A within that is shorter than one send, or longer than its channel tries.", _WARNING),
    # channels and people
    "unset-variable": Code("An environment variable that is not set."),
    "secret-in-the-open": Code("A secret written into the policy."),
    "missing-address": Code("{to} in a URL, and nothing that says which address stands there."),
    "unusable-channel": Code("Settings with which the channel would not open."),
    "bad-address": Code("An address that is none of its kind."),
    "no-address": Code("A channel that needs an address nobody gives."),
    # time
    "bad-window": Code("Text that is no part of a day."),
    "bad-range": Code("Days, months or years that are none."),
    "empty-interval": Code("A time interval that no day is in."),
    "never-open": Code("Hours that leave no time at which anything is sent.", _WARNING),
    # people and limits
    "no-allow": Code("preferred without the channels to choose from."),
    "unused-allow": Code("Channels to choose from, and nothing that asks for the choice.", _WARNING),
    "reserved-name": Code("A channel with a name that means something else."),
    "unchoosable": Code("A category in which nobody can choose anything.", _WARNING),
    "pointless-throttle": Code("A throttle that never holds anything back.", _WARNING),
    "digest-of-critical": Code("A digest of what cannot wait.", _WARNING),
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
    "failed-test": Code("A test of the policy that fails: a running server does not take the policy over."),
    "not-adopted": Code("Something outside the policy that keeps a running server from taking it over."),
}  # fmt: skip
