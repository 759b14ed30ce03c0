"""Problems in a policy or in settings, with their places, and the registry of problem codes.

The codes stand in the order of docs/problems.md, which has a section for each.
"""

from __future__ import annotations

from dataclasses import dataclass

DocumentPath = tuple[str | int, ...]  # keys and list positions from the root of a document


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """A point in a file. Lines and columns count from 1, columns in characters."""

    file: str  # relative to the folder that was read
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """Something wrong at a path of a document; the document turns it into a Problem with a place."""

    path: DocumentPath = ()
    code: str
    message: str  # what was found and what is allowed
    hint: str = ""
    severity: str = ""  # "": the severity of the code
    at_key: bool = False  # the key is wrong, not the value


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong in a file."""

    place: Place
    code: str  # stable, for example unknown-channel
    message: str  # what was found and what is allowed
    pointer: str = ""  # JSON pointer (RFC 6901) into the file; "" is the whole of it
    severity: str = ""  # error, warning, or info, which never fails a check; "": the severity of the code
    hint: str = ""  # what to do, for example: did you mean 'email'?

    def __post_init__(self) -> None:
        if not self.severity:
            object.__setattr__(self, "severity", CODES[self.code].severity)

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.place}: {self.severity}: {self.message} [{self.code}]{hint}"


@dataclass(frozen=True, slots=True)
class ProblemCode:
    """The meaning of a code, and its usual severity."""

    meaning: str
    severity: str = "error"


_WARNING = "warning"

CODES: dict[str, ProblemCode] = {
    # files
    "unreadable": ProblemCode("A file or folder that MSS cannot read."),
    "symlink-loop": ProblemCode("A symbolic link to a folder above it."),
    "too-many-files": ProblemCode("More files than a policy can have."),
    "file-too-big": ProblemCode("A file, or a policy, that is too large."),
    "binary": ProblemCode("A character that a text file cannot contain."),
    "not-utf8": ProblemCode("A file in an encoding other than UTF-8."),
    # YAML
    "yaml-syntax": ProblemCode("Text that is not valid YAML."),
    "yaml-tab": ProblemCode("A tab in the indentation."),
    "duplicate-key": ProblemCode("A key that occurs twice in one mapping."),
    "yaml-documents": ProblemCode("More than one YAML document in a file."),
    "yaml-key": ProblemCode("A key that is not text."),
    "yaml-merge": ProblemCode("A merge key << without an alias of a mapping."),
    "yaml-alias": ProblemCode("An alias without an anchor, or inside its own anchor."),
    "yaml-tag": ProblemCode("A YAML tag that MSS does not support."),
    "yaml-number": ProblemCode("A number that MSS cannot represent exactly."),
    "yaml-too-big": ProblemCode("Too many values after all aliases are expanded."),
    "yaml-too-deep": ProblemCode("Mappings and lists that are nested too deep."),
    # schema
    "unknown-key": ProblemCode("A key that the policy language does not have."),
    "missing-key": ProblemCode("A required key that is missing."),
    "wrong-type": ProblemCode("A value of the wrong type."),
    "bad-format": ProblemCode("Text in the wrong format."),
    "not-allowed": ProblemCode("A value that is not in the list of allowed values."),
    "out-of-range": ProblemCode("A number, or a number of entries, outside its limits."),
    "empty": ProblemCode("An empty value where at least one is required."),
    "bad-value": ProblemCode("A value that violates the schema."),
    "too-deep": ProblemCode("Conditions or values that are nested too deep to check."),
    "bad-schema": ProblemCode("A payload schema that is not a self-contained JSON Schema."),
    "schema-path": ProblemCode("A payload schema at a path that MSS does not use."),
    # names
    "defined-twice": ProblemCode("A name, an id or a test that is defined twice."),
    "unknown-channel": ProblemCode("A channel that does not exist."),
    "unknown-person": ProblemCode("A person who does not exist."),
    "unknown-interval": ProblemCode("A time interval that does not exist."),
    "unknown-zone": ProblemCode("A time zone that does not exist."),
    "unknown-rule": ProblemCode("A test that expects a rule that does not exist."),
    "unknown-action": ProblemCode("A test that requests an action that does not exist."),
    "unknown-event": ProblemCode("An event without a payload schema.", _WARNING),
    "bad-event": ProblemCode("An event that is not a valid NATS subject."),
    # conditions
    "bad-path": ProblemCode("Text that is not a path of a payload."),
    "invalid-condition-block": ProblemCode("A value that is not a block of conditions."),
    "unknown-operator": ProblemCode("An operator that does not exist."),
    "bad-argument": ProblemCode("An argument that its operator cannot use."),
    "missing-operator": ProblemCode("An empty mapping instead of operators."),
    "empty-range": ProblemCode("Limits that no value can satisfy."),
    "exists-inside": ProblemCode("`exists` inside `not` or a list."),
    "exists-with-others": ProblemCode("`exists: false` together with operators that need a value."),
    # conditions and payload schemas
    "unknown-path": ProblemCode("A path that no schema of the events has."),
    "operator-type": ProblemCode("An operator that does not fit the type of the field."),
    "impossible-value": ProblemCode("A value that the field can never have."),
    "never-matches": ProblemCode("Conditions that contradict each other.", _WARNING),
    "hidden-rule": ProblemCode("A rule that is never evaluated, as an earlier rule has `stop`.", _WARNING),
    # fallback chains
    "duplicate-fallback": ProblemCode("A fallback chain with the same channel and recipients twice."),
    "redundant-fallback": ProblemCode("A fallback over a channel that the rule uses anyway.", _WARNING),
    "fallback-timeout": ProblemCode("A `within` shorter than one attempt, longer than all.", _WARNING),
    # channels and people
    "unset-variable": ProblemCode("An environment variable that is not set."),
    "plaintext-secret": ProblemCode("A secret in plain text in the policy."),
    "missing-address": ProblemCode("{to} in a URL without the kind of address that replaces it."),
    "unusable-channel": ProblemCode("Settings with which the channel cannot open."),
    "bad-address": ProblemCode("An invalid address."),
    "no-address": ProblemCode("A channel whose address nobody provides."),
    # time
    "bad-window": ProblemCode("Text that is not a part of a day."),
    "bad-range": ProblemCode("An invalid range of days, months or years."),
    "empty-interval": ProblemCode("A time interval that contains no day."),
    "always-muted": ProblemCode("Time intervals that mute a rule at all times.", _WARNING),
    # preferences and limits
    "preferred-without-allow": ProblemCode("`preferred` without `allow`."),
    "unused-allow": ProblemCode("`allow` without `preferred`.", _WARNING),
    "reserved-name": ProblemCode("A channel with a reserved name."),
    "category-without-channel": ProblemCode("A category without a channel to choose.", _WARNING),
    "ineffective-throttle": ProblemCode("A throttle that never takes effect.", _WARNING),
    "delayed-critical": ProblemCode("A digest that delays a critical rule.", _WARNING),
    "bad-preference": ProblemCode("A preference in a test that the server would reject."),
    # actions
    "unusable-action": ProblemCode("Settings with which the handler of the action cannot start."),
    "overlapping-action": ProblemCode("An action on a subject that another action serves for one user."),
    "untestable-action": ProblemCode("A test that requests an action that tests cannot run."),
    "reply-count": ProblemCode("A test with more or fewer replies than requests."),
    # templates
    "template-path": ProblemCode("A template file at a path that MSS does not use."),
    "template-syntax": ProblemCode("A template that Jinja2 cannot parse."),
    "template-mjml": ProblemCode("A template that is not valid MJML."),
    "template-twice": ProblemCode("Two files that define the same content."),
    "front-matter": ProblemCode("Front matter without an end."),
    "missing-template": ProblemCode("A template that does not exist or has no content for the channel."),
    "missing-subject": ProblemCode("A mail without a subject."),
    "unknown-variable": ProblemCode("A variable that templates do not have."),
    "unknown-field": ProblemCode("A field that the variable does not have."),
    "missing-locale": ProblemCode("A language that one template has and another does not.", _WARNING),
    # unused definitions
    "unused-channel": ProblemCode("A channel that no rule uses.", _WARNING),
    "unused-person": ProblemCode("A person whom no rule notifies.", _WARNING),
    "unused-interval": ProblemCode("A time interval that no rule uses.", _WARNING),
    "unused-template": ProblemCode("A template that no rule uses.", _WARNING),
    "untested-rule": ProblemCode("A rule that no test covers.", _WARNING),
    # reload
    "policy-test-failed": ProblemCode("A policy test that fails, so the reload is refused."),
    "reload-failed": ProblemCode("A reload that fails for a reason outside the policy."),
}  # fmt: skip


def json_pointer(path: DocumentPath) -> str:
    """Return ``path`` as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
