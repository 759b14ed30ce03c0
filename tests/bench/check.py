"""How long `mss check` takes for a large policy, and how much memory.

    python tests/bench/check.py [--rules 1000] [--files 50] [--json]

All rules look at one event, with conditions of several sorts; every tenth says `stop` and has a template of
its own in two languages; each has a test. The command runs in a process of its own: its start, which is
also measured by itself with an empty policy, is part of the figure.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNTRIES = ["CN", "HK", "SG", "DE", "FR", "US", "JP", "KR", "IN", "BR"]


def write_policy(folder: Path, rules: int, files: int) -> None:
    """A policy without a problem; ``rules`` are spread over ``files``."""
    (folder / "channels.yaml").write_text(
        "channels:\n"
        "  email: {type: email, from: noreply@example.com, mtas: [{host: 127.0.0.1}]}\n"
        "  terminal: {type: console}\n"
    )
    for number in range(files):
        mine = range(number, rules, files)
        text = "rules:\n" + "".join(map(rule, mine)) + "tests:\n" + "".join(map(test, mine))
        (folder / f"rules-{number:03}.yaml").write_text(text)
    for number in range(0, rules, 10):
        for locale in ("en", "zh-CN"):
            words = folder / f"templates/mail-{number}/{locale}/email.txt"
            words.parent.mkdir(parents=True)
            words.write_text(
                "---\nsubject: New sign-in\n---\nHello {{ payload.username }}, somebody signed in"
                "{% if payload.city is defined %} from {{ payload.city }}{% endif %}.\n"
            )


def rule(number: int) -> str:
    country = COUNTRIES[number % len(COUNTRIES)]
    lines = [
        f"  - id: rule-{number}",
        "    event: notice.login.abnormal",
        f"    priority: {number}",
        "    when:",
        "      result: success",
        f"      country: [{country}, {{prefix: X{number % 7}}}]",
        f"      userid: {{prefix: team{number}-}}",
        f"      risk.score: {{gte: {number % 60}, lt: {60 + number % 40}}}",
        "      any:",
        "        - reason: {prefix: impossible_}",
        f"        - device.name: {{not: phone-{number}}}",
    ]
    if number % 10 == 0:
        lines += ["    stop: true", f"    template: mail-{number}", "    notify: [email]"]
    else:
        lines += ["    notify: [terminal]"]
    return "\n".join(lines) + "\n"


def test(number: int) -> str:
    payload = {
        "result": "success", "country": COUNTRIES[number % len(COUNTRIES)], "userid": f"team{number}-1",
        "risk": {"score": number % 60}, "reason": "impossible_travel",
    }  # fmt: skip
    given = json.dumps({"event": "notice.login.abnormal", "payload": payload})
    return f"  - {{name: rule {number}, given: {given}, expect: {{rules: [rule-{number}]}}}}\n"


def run(*arguments: str) -> tuple[float, float, int]:
    """Seconds, seconds on the processor, and the greatest resident size so far of any child, in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, processor, after.ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    mss = str(Path(sys.executable).parent / "mss")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_policy(folder, options.rules, options.files)
        (folder / "empty").mkdir()
        startup, _, _ = run(mss, "check", str(folder / "empty"))
        seconds, processor, megabytes = run(mss, "check", str(folder), "--strict")
    found = {
        "rules": options.rules, "files": options.files, "seconds": round(seconds, 2),
        "processor": round(processor, 2), "startup": round(startup, 2), "megabytes": megabytes,
    }  # fmt: skip
    print(
        json.dumps(found)
        if options.json
        else "\n".join(f"{key:>10}  {value}" for key, value in found.items())
    )


if __name__ == "__main__":
    main()
