"""One noun, one meaning, one owner: a class is called as no other class is."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def types(path: Path) -> Iterator[str]:
    """The classes and type aliases that a module defines at its top."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if is_type(node.targets[0].id, node.value):
                yield node.targets[0].id
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).endswith("TypeAlias"):
            yield ast.unparse(node.target)


def is_type(name: str, value: ast.expr) -> bool:
    """Whether a name is written like a class and given something that a type is made of."""
    if name.upper() == name or not name.strip("_")[:1].isupper():
        return False
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in ("NewType", "NamedTuple", "TypedDict")
    return isinstance(value, (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp))


def test_no_type_is_defined_twice() -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for package in ("engine", "msc"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "_data" not in path.parts:
                for name in types(path):
                    owners[name].append(path.relative_to(ROOT).as_posix())
    assert {name: paths for name, paths in owners.items() if len(paths) > 1} == {}


# Names that the field's words have replaced. A name that has another meaning in the field, such as `first` or `write`,
# is not listed.
REPLACED_TYPES = """
    Again Alarm Answer Answers Arrival Attempt BadBucket BadPreferences Beyond Branch Breaker Bugs
    Cabinet Call Cells Census Change Chosen Claims Complaints Considered Conversation Course Cursor
    Deliverer Delivered Demand Digested Digests Disposal Done Draft Drawer Due Ending Entrance Entry
    EventEntry FallBack Fault Field Filing Finding Fired Flaw Found Gate Gathered Groundwork Handout
    Herald Intake Job Joined Lag Letter Letters Likeness LineLost Link Listening MailServer Memory
    Merged Moment Mta Node NotLookedUp NotPushed Offer Offers Once Order Outgoing Pace Page Past Path
    Pool Postponed Preferred Question Readers Reading Recorded Records Reloaded Remembered Replanning
    Residue Resources Revival Row Served Settlement Share Side Sight Spoken Spot StaysDead Stored Story
    Surroundings Taken Takeover Terms Test Told Tracer Troubles Turned Unpaired Use UsedUp Verdict
    Visibility Wanted Watch Words Workers Written
""".split()  # noqa: SIM905 -- a list of one name a line is two pages long
REPLACED_FUNCTIONS = """
    _again _bury _carry_on _chain _give_up _hand_on _home_of _keep _later _look_up _may_begin _tell _way
    adopt again_in aligned ask beside bring_back broker_of carry_out cell_of collector_at_rest complain
    content_of digest_at digest_of discarded dismantle drive either enter event_in_words events_in_words
    fall_back_id find_words fold folder_of hand_over handout has_grown in_hand in_memory in_time instead
    is_new is_personal is_surely_new is_timed itself keep_since leaf_of linked long_form look means
    narrowed next_of nobody objections offer offers_of open_line outdated pair_off pass_gates pass_last
    patiently pick planning pool_of pool_prefix prefer put_off reading rehearse released replanned
    rest_of retold revival round_trip said selected settle settle_batch shelves shown sift spend spoken
    succeeded take_batch takeover tell_batch tell_hidden throw_away together told told_in_words trouble
    try_case unused verbs withdraw without_last words
""".split()  # noqa: SIM905 -- a list of one name a line is two pages long


def defined(path: Path) -> Iterator[str]:
    """Yield the functions, methods and fields that a module defines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield from (ast.unparse(each.target) for each in node.body if isinstance(each, ast.AnnAssign))


def test_no_definition_keeps_a_replaced_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in [*ROOT.glob("engine/**/*.py"), *ROOT.glob("msc/*.py")]
        for names, replaced in ((types(path), REPLACED_TYPES), (defined(path), REPLACED_FUNCTIONS))
        for name in names
        if name in replaced
    ]
    assert found == []
