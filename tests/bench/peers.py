"""The index beside other rule engines from PyPI, on what all of them can say.

    python tests/bench/peers.py [--rules 1000] [--events 2000] [--seconds 5] [--json]

The peers are installed into a virtual environment that is thrown away afterwards; one that does not
install, or fails, is named and left out. All of them evaluate one expression at a time, so each gets
our trie of subjects for free: it is asked only of the rules whose pattern fits the event, and is not
charged for finding them. Rules have up to four conditions: a value equals, is one of a list, is
within bounds. An error while evaluating, which is how some see a missing field, counts as false.
What a peer finds is compared with what the index finds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

Condition = tuple[list[str], str, Any]  # path, operator, argument
Ask = Callable[[Any], object]  # the event as the peer wants it -> whether the rule holds
Engine = tuple[Callable[[list[Condition]], Ask], Callable[[dict[str, Any]], Any]]

SYMBOLS = {"equals": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def infix(conditions: list[Condition], prefix: str, conjunction: str, guard: str = "") -> str:
    """The conditions in the common form of expression languages."""
    parts = []
    for path, operator, argument in conditions:
        field = prefix + ".".join(path)
        if guard:
            parts += [guard.format(prefix + ".".join(path[:n])) for n in range(1, len(path) + 1)]
        sign = "in" if operator == "any_of" else SYMBOLS[operator]
        parts.append(f"{field} {sign} {json.dumps(argument)}")
    return f" {conjunction} ".join(parts) or "true"


def json_logic(conditions: list[Condition]) -> Any:
    if not conditions:
        return True
    return {
        "and": [
            {"in" if operator == "any_of" else SYMBOLS[operator].replace("==", "==="): [{"var": ".".join(path)}, argument]}
            for path, operator, argument in conditions
        ]
    }  # fmt: skip


def datalogic() -> Engine:
    import datalogic_py

    engine = datalogic_py.Engine()
    return (
        lambda conditions: engine.compile(json.dumps(json_logic(conditions))).evaluate_data,
        lambda payload: datalogic_py.DataHandle(json.dumps(payload)),
    )


def zen() -> Engine:
    import zen as module

    def compiled(conditions: list[Condition]) -> Ask:
        return module.compile_expression(infix(conditions, "", "and")).evaluate

    return compiled, lambda payload: payload


def rule_engine() -> Engine:
    import rule_engine as module

    context = module.Context(resolver=module.resolve_item)
    return (
        lambda conditions: module.Rule(infix(conditions, "", "and"), context=context).matches,
        lambda payload: payload,
    )


def cel_rust() -> Engine:
    import cel

    return (
        lambda conditions: cel.compile(infix(conditions, "p.", "&&", "has({})")).execute,
        lambda payload: {"p": payload},
    )


def cel_google() -> Engine:
    from cel_expr_python import cel

    env = cel.NewEnv(variables={"p": cel.Type.DYN})

    def compiled(conditions: list[Condition]) -> Ask:
        expression = env.compile(infix(conditions, "p.", "&&", "has({})"))
        return lambda activation: expression.eval(activation).value()

    return compiled, lambda payload: env.Activation({"p": payload})


def panzi() -> Engine:
    import json_logic as module

    def compiled(conditions: list[Condition]) -> Ask:
        logic = json_logic(conditions)
        return lambda payload: module.jsonLogic(logic, payload)

    return compiled, lambda payload: payload


PEERS: dict[str, Callable[[], Engine]] = {
    "datalogic-py": datalogic,
    "zen-engine": zen,
    "rule-engine": rule_engine,
    "common-expression-language": cel_rust,
    "cel-expr-python": cel_google,
    "panzi-json-logic": panzi,
}


def worker(name: str, file: Path, seconds: float) -> None:
    """Runs inside the other environment; prints one row."""
    given = json.loads(file.read_text())
    compiled, prepared = PEERS[name]()
    began = time.process_time()
    asks = [compiled(conditions) for conditions in given["rules"]]
    compile_us = (time.process_time() - began) / len(asks) * 1e6
    events = evaluations = wrong = 0
    taken = 0.0
    while taken < seconds and events < len(given["events"]):
        payload, fitting, expected = given["events"][events]
        found = []
        began = time.process_time()
        data = prepared(payload)
        for number in fitting:
            try:
                if asks[number](data) is True:
                    found.append(number)
            except Exception:  # noqa: BLE001 -- each has its own way to say that a field is missing
                pass
        taken += time.process_time() - began
        events += 1
        evaluations += len(fitting)
        wrong += found != expected
    print(json.dumps({"events": events, "us": taken / events * 1e6, "us_per_rule": taken / max(1, evaluations) * 1e6,
                      "compile_us": compile_us, "wrong": wrong}))  # fmt: skip


def flat(when: dict[str, Any]) -> list[Condition]:
    conditions: list[Condition] = []
    for path, written in when.items():
        operators = (
            written
            if isinstance(written, dict)
            else {"any_of" if isinstance(written, list) else "equals": written}
        )
        conditions += [(path.split("."), name, argument) for name, argument in operators.items()]
    return conditions


def main(size: int, count: int, seconds: float, as_json: bool) -> None:
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    from workload import Workload

    from engine.rules.index.rule_index import RuleIndex
    from engine.rules.index.subject_trie import SubjectIndex
    from engine.runtime import freeze_heap

    work = Workload(size, mode="peer")
    rules, events = work.rules(), work.events(count)
    index = RuleIndex([(rule.patterns, rule.when, rule.number) for rule in rules])
    trie = SubjectIndex((rule.patterns, rule.number) for rule in rules)
    freeze_heap()

    def index_us() -> float:
        began = time.process_time()
        for event in events:
            index.lookup(*event)
        return (time.process_time() - began) / len(events) * 1e6

    rows: dict[str, dict[str, Any]] = {}
    ours = [index_us() for _ in range(5)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = {
            "rules": [flat(rule.source.get("when", {})) for rule in rules],
            "events": [(payload, trie.find(name), index.lookup(name, payload)) for name, payload in events],
        }
        (folder / "given.json").write_text(json.dumps(given))
        venv.create(folder / "peers", with_pip=True)
        for peer in PEERS:
            rows[peer] = in_own_environment(peer, folder, seconds)
            ours += [index_us() for _ in range(2)]
    best = min(ours)
    for row in rows.values():
        if "us" in row:
            row["index_is_faster"] = round(row["us"] / best, 1)
    result = {"rules": size, "index_us": round(best, 1), "peers": rows}
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"{size} rules, index {best:.1f} us per event")
    for peer, row in rows.items():
        if "us" not in row:
            print(f"{peer:28} left out: {row['why']}")
            continue
        print(f"{peer:28} {row['us']:10.1f} us  {row['us_per_rule']:7.2f} us/rule  {row['compile_us']:7.1f} us to compile"
              f"  {row['wrong']:4} of {row['events']} events differ  index {row['index_is_faster']:8.1f} times faster")  # fmt: skip


def in_own_environment(peer: str, folder: Path, seconds: float) -> dict[str, Any]:
    python = folder / "peers" / "bin" / "python"
    install = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", peer],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if install.returncode:
        return {"why": "it does not install: " + (install.stderr.strip().splitlines() or ["?"])[-1]}
    run = subprocess.run(
        [python, __file__, "--worker", peer, folder / "given.json", str(seconds)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if run.returncode:
        return {"why": (run.stderr.strip().splitlines() or ["?"])[-1]}
    row: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))
        sys.exit()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    given_ = parser.parse_args()
    main(given_.rules, given_.events, given_.seconds, given_.json)
