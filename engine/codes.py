"""The registry of problem codes, in the order of the sections of docs/problems.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """The meaning of a code, and its usual severity."""

    meaning: str
    severity: str = "error"


_WARNING = "warning"

CODES: dict[str, Code] = {
    # files
    "unreadable": Code("A file or folder that MSS cannot read."),
    "symlink-loop": Code("A symbolic link to a folder above it."),
    "too-many-files": Code("More files than a policy can have."),
    "file-too-big": Code("A file, or a policy, that is too large."),
    "binary": Code("A character that a text file cannot contain."),
    "not-utf8": Code("A file in an encoding other than UTF-8."),
    # YAML
    "yaml-syntax": Code("Text that is not valid YAML."),
    "yaml-tab": Code("A tab in the indentation."),
    "duplicate-key": Code("A key that occurs twice in one mapping."),
    "yaml-documents": Code("More than one YAML document in a file."),
    "yaml-key": Code("A key that is not text."),
    "yaml-merge": Code("A merge key << without an alias of a mapping."),
    "yaml-alias": Code("An alias without an anchor, or inside its own anchor."),
    "yaml-tag": Code("A YAML tag that MSS does not support."),
    "yaml-number": Code("A number that MSS cannot represent exactly."),
    "yaml-too-big": Code("Too many values after all aliases are expanded."),
    "yaml-too-deep": Code("Mappings and lists that are nested too deep."),
    # schema
    "unknown-key": Code("A key that the policy language does not have."),
    "missing-key": Code("A required key that is missing."),
    "wrong-type": Code("A value of the wrong type."),
    "bad-format": Code("Text in the wrong format."),
    "not-allowed": Code("A value that is not in the list of allowed values."),
    "out-of-range": Code("A number, or a number of entries, outside its limits."),
    "empty": Code("An empty value where at least one is required."),
    "bad-value": Code("A value that violates the schema."),
    "too-deep": Code("Conditions or values that are nested too deep to check."),
    "bad-schema": Code("A payload schema that is not a self-contained JSON Schema."),
    "schema-path": Code("A payload schema at a path that MSS does not use."),
    # names
    "defined-twice": Code("A name, an id or a test that is defined twice."),
    "unknown-channel": Code("A channel that does not exist."),
    "unknown-person": Code("A person who does not exist."),
    "unknown-interval": Code("A time interval that does not exist."),
    "unknown-zone": Code("A time zone that does not exist."),
    "unknown-rule": Code("A test that expects a rule that does not exist."),
    "unknown-action": Code("A test that requests an action that does not exist."),
    "unknown-event": Code("An event without a payload schema.", _WARNING),
    "bad-event": Code("An event that is not a valid NATS subject."),
    # conditions
    "bad-path": Code("Text that is not a path of a payload."),
    "invalid-condition-block": Code("A value that is not a block of conditions."),
    "unknown-operator": Code("An operator that does not exist."),
    "bad-argument": Code("An argument that its operator cannot use."),
    "missing-operator": Code("An empty mapping instead of operators."),
    "empty-range": Code("Limits that no value can satisfy."),
    "exists-inside": Code("`exists` inside `not` or a list."),
    "exists-with-others": Code("`exists: false` together with operators that need a value."),
    # conditions and payload schemas
    "unknown-path": Code("A path that no schema of the events has."),
    "operator-type": Code("An operator that does not fit the type of the field."),
    "impossible-value": Code("A value that the field can never have."),
    "never-matches": Code("Conditions that contradict each other.", _WARNING),
    "hidden-rule": Code("A rule that MSS never evaluates because an earlier rule has `stop`.", _WARNING),
    # fallback chains
    "duplicate-fallback": Code("A fallback chain with the same channel and recipients twice."),
    "redundant-fallback": Code("A fallback over a channel that the rule uses anyway.", _WARNING),
    "fallback-timeout": Code("A `within` shorter than one attempt, or longer than all of them.", _WARNING),
    # channels and people
    "unset-variable": Code("An environment variable that is not set."),
    "plaintext-secret": Code("A secret in plain text in the policy."),
    "missing-address": Code("{to} in a URL without the kind of address that replaces it."),
    "unusable-channel": Code("Settings with which the channel cannot open."),
    "bad-address": Code("An invalid address."),
    "no-address": Code("A channel whose address nobody provides."),
    # time
    "bad-window": Code("Text that is not a part of a day."),
    "bad-range": Code("An invalid range of days, months or years."),
    "empty-interval": Code("A time interval that contains no day."),
    "always-muted": Code("Time intervals that mute a rule at all times.", _WARNING),
    # preferences and limits
    "preferred-without-allow": Code("`preferred` without `allow`."),
    "unused-allow": Code("`allow` without `preferred`.", _WARNING),
    "reserved-name": Code("A channel with a reserved name."),
    "category-without-channel": Code("A category without a channel to choose.", _WARNING),
    "ineffective-throttle": Code("A throttle that never takes effect.", _WARNING),
    "delayed-critical": Code("A digest that delays a critical rule.", _WARNING),
    "bad-preference": Code("A preference in a test that the server would reject."),
    # actions
    "unusable-action": Code("Settings with which the handler of the action cannot start."),
    "overlapping-action": Code("An action on a subject that another action serves for one user."),
    "untestable-action": Code("A test that requests an action that tests cannot run."),
    "reply-count": Code("A test with more or fewer replies than requests."),
    # templates
    "template-path": Code("A template file at a path that MSS does not use."),
    "template-syntax": Code("A template that Jinja2 cannot parse."),
    "template-mjml": Code("A template that is not valid MJML."),
    "template-twice": Code("Two files that define the same content."),
    "front-matter": Code("Front matter without an end."),
    "missing-template": Code("A template that does not exist or has no content for the channel."),
    "missing-subject": Code("A mail without a subject."),
    "unknown-variable": Code("A variable that templates do not have."),
    "unknown-field": Code("A field that the variable does not have."),
    "missing-locale": Code("A language that one template has and another does not.", _WARNING),
    # unused definitions
    "unused-channel": Code("A channel that no rule uses.", _WARNING),
    "unused-person": Code("A person whom no rule notifies.", _WARNING),
    "unused-interval": Code("A time interval that no rule uses.", _WARNING),
    "unused-template": Code("A template that no rule uses.", _WARNING),
    "untested-rule": Code("A rule that no test covers.", _WARNING),
    # reload
    "policy-test-failed": Code("A policy test that fails, so the reload is refused."),
    "reload-failed": Code("A reload that fails for a reason outside the policy."),
}  # fmt: skip
