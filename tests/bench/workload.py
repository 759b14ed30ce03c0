"""Events and rules of an identity provider of any size, the same ones for the same seed.

Events are about 600 bytes of nested JSON. Rules have a pattern and up to four conditions over all
operators; nine of ten with conditions have one that few events meet (a tenant, a user, a network, a
mail domain, a path, a device), as rules of many tenants have. The universe grows with the rules, so
that a tenant has about twenty of them at every size.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.model.subjects import Pattern, parse_event_pattern
from engine.rules.condition_compiler import ALL_OPERATORS, compile_block
from engine.rules.conditions import Block

KINDS = ("audit", "notice", "log")
APPS = ("console", "portal", "gateway", "api", "admin", "sync", "mobile", "vpn")
ZONES = ("cn", "eu", "us")
AREAS = ("login", "user", "group", "app", "policy", "device", "token", "mail", "role", "session")
DEEDS = ("create", "update", "delete", "read", "fail", "ok", "lock", "unlock", "grant", "revoke", "expire", "renew")  # fmt: skip
COUNTRIES = ("CN", "HK", "SG", "US", "DE", "FR", "GB", "JP", "KR", "AU", "BR", "IN", "RU", "ZA", "CA", "MX")
ROLES = ("user", "auditor", "operator", "helpdesk", "owner", "admin")
REASONS = ("password", "impossible_travel", "new_device", "impossible_speed", "blocked_ip", "mfa_missing")
AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 Version/17.5 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "okhttp/4.12.0",
    "curl/8.5.0",
)
CATCH_ALLS = 5
TENANT_RULES = 20
USERS = 12  # of a tenant

Condition = tuple[str, Any]


@dataclass(frozen=True, slots=True)
class BenchRule:
    """A rule as the benchmark needs it: what it matches, and its source."""

    number: int
    patterns: tuple[Pattern, ...]
    when: Block
    source: dict[str, Any]  # as under rules: in a policy


class Workload:
    """``mode`` is ``full``, ``broad`` (nothing selective) or ``peer`` (what every expression language has)."""

    def __init__(self, size: int, *, mode: str = "full", seed: int = 7) -> None:
        self.size, self.mode = size, mode
        self.random = random.Random(seed)
        self.tenants = max(3, size // TENANT_RULES)

    def skewed(self, items: tuple[str, ...]) -> str:
        return items[int(len(items) * self.random.random() ** 2)]

    def tenant(self) -> int:
        return int(self.tenants * self.random.random() ** 1.2)

    # Events

    def event(self) -> tuple[str, dict[str, Any]]:
        r = self.random
        kind, app, zone, area, deed = map(self.skewed, (KINDS, APPS, ZONES, AREAS, DEEDS))
        tenant, user = self.tenant(), r.randrange(USERS)
        payload = {
            "tenant": f"t{tenant:05}",
            "severity": r.choice(("low", "medium", "high", "none")),
            "result": "success" if r.random() < 0.8 else "failure",
            "user": {
                "id": user_id(tenant, user),
                "email": f"{r.choice(('U', 'u'))}ser{user}@{domain(tenant)}",
                "roles": r.sample(ROLES, r.randint(1, 3)),
                "mfa": r.random() < 0.6,
                "locale": r.choice(("zh-CN", "en", "de")),
            },
            "ip": f"{10 + tenant // 65536}.{tenant // 256 % 256}.{tenant % 256}.{r.randrange(1, 255)}",
            "geo": {"country": r.choice(COUNTRIES), "city": r.choice(("Hong Kong", "Berlin", "Lyon", None))},
            "device": {"id": device_id(tenant, r.randrange(40)), "trusted": r.random() < 0.5},
            "http": {
                "path": f"/tenants/{tenant:05}/apps/{r.randrange(30)}/{r.choice(('view', 'edit', 'export'))}",
                "method": r.choice(("GET", "POST", "PUT", "DELETE")),
                "agent": r.choice(AGENTS),
            },
            "risk": {"score": r.randrange(101), "reasons": r.sample(REASONS, r.randint(0, 3))},
            "attempts": r.randint(1, 12),
            "time": f"2026-03-{r.randint(1, 28):02}T{r.randrange(24):02}:30:00+08:00",
            "request": f"{r.getrandbits(64):016x}",
        }
        if r.random() < 0.3:
            payload["items"] = [{"kind": r.choice("abc"), "count": r.randrange(9)} for _ in range(2)]
        if r.random() < 0.3:
            del payload["device"]
        return f"{kind}.{app}.{zone}.{area}.{deed}", payload

    def events(self, count: int = 10_000) -> list[tuple[str, dict[str, Any]]]:
        """Events as a parser leaves them: every value an object of its own."""
        made = [self.event() for _ in range(count)]
        return [(name, json.loads(json.dumps(payload))) for name, payload in made]

    # Rules

    def rules(self) -> list[BenchRule]:
        self.random.seed(f"rules {self.size} {self.mode}")
        catch_alls = CATCH_ALLS if self.size >= 100 and self.mode != "peer" else 0
        made = [self.rule(n) for n in range(self.size - catch_alls)]
        made += [
            BenchRule(len(made) + n, (parse_event_pattern(">"),), Block(), {"event": ">"})
            for n in range(catch_alls)
        ]
        self.random.seed(f"events {self.size}")
        return made

    def rule(self, number: int) -> BenchRule:
        r = self.random
        count = r.choices((0, 1, 2, 3, 4), (8, 27, 35, 20, 10))[0]
        selective = count > 0 and r.random() < 0.9 and self.mode != "broad"
        while True:
            tenant = self.tenant()
            conditions = [self.selective(tenant)] if selective else []
            while len(conditions) < count:
                path, argument = self.weak()
                if path not in dict(conditions):
                    conditions.append((path, argument))
            r.shuffle(conditions)
            when: dict[str, Any] = dict(conditions)
            if conditions and self.mode != "peer":
                when = self.combined(when, tenant)
            block, flaws = compile_block(when)
            if not flaws:
                break
        events = [self.pattern(broad=selective or self.mode == "broad")]
        if r.random() < 0.05:
            events.append(self.pattern(broad=False))
        source = {"event": events if len(events) > 1 else events[0], **({"when": when} if when else {})}
        return BenchRule(number, tuple(map(parse_event_pattern, events)), block, source)

    def combined(self, when: dict[str, Any], tenant: int) -> dict[str, Any]:
        """One rule of twenty has an ``any`` or a ``not`` over blocks."""
        chance = self.random.random()
        if chance < 0.03:
            path, argument = self.selective(tenant)
            return {**when, "any": [{path: argument}, dict([self.selective(tenant)])]}
        if chance < 0.05:
            return {**when, "not": dict([self.weak()])}
        return when

    def pattern(self, *, broad: bool) -> str:
        kind, app, zone, area, deed = map(self.random.choice, (KINDS, APPS, ZONES, AREAS, DEEDS))
        forms = [f"{kind}.{app}.{zone}.{area}.{deed}", f"{kind}.*.*.{area}.{deed}", f"{kind}.{app}.*.{area}.>",
                 f"{kind}.{app}.>", f"*.*.*.{area}.>", f"{kind}.{app}.*.*.{deed}", f"{kind}.>", ">"]  # fmt: skip
        if not broad:
            return forms[0]
        return self.random.choices(forms, (30, 15, 15, 14, 10, 8, 5, 3))[0]

    def selective(self, tenant: int) -> Condition:
        r, user = self.random, self.random.randrange(USERS)
        plain: list[tuple[float, Callable[[], Condition]]] = [
            (30, lambda: ("tenant", f"t{tenant:05}")),
            (14, lambda: ("user.id", user_id(tenant, user))),
            (6, lambda: ("device.id", device_id(tenant, r.randrange(40)))),
            (8, lambda: ("user.id", [user_id(tenant, r.randrange(USERS)) for _ in range(r.randint(2, 5))])),
        ]
        if self.mode != "peer":
            block = f"{10 + tenant // 65536}.{tenant // 256 % 256}.{tenant % 256}.0"
            plain += [
                (12, lambda: ("ip", {"cidr": f"{block}/24"})),
                (2, lambda: ("ip", {"cidr": [f"{block}/26", "192.0.2.0/25", "2001:db8::/32"]})),
                (9, lambda: ("user.email", {"suffix": f"@{domain(tenant)}"})),
                (7, lambda: ("http.path", {"prefix": f"/tenants/{tenant:05}/"})),
                (7, lambda: ("http.path", {"wildcard": f"/tenants/{tenant:05}/*/edit"})),
                (5, lambda: ("user.email", {"equals": f"USER{user}@{domain(tenant)}", "ignore_case": True})),
            ]
        return r.choices([make for _, make in plain], [weight for weight, _ in plain])[0]()

    def weak(self) -> Condition:
        r = self.random
        low = r.randrange(20, 90, 5)
        plain: list[Callable[[], Condition]] = [
            lambda: ("severity", r.choice(("low", "medium", "high"))),
            lambda: ("severity", ["medium", "high"]),
            lambda: ("result", r.choice(("success", "failure"))),
            lambda: ("risk.score", {"gte": low}),
            lambda: ("risk.score", {"gte": low, "lt": low + 20}),
            lambda: ("attempts", {"gt": r.randint(1, 8)}),
            lambda: ("user.mfa", r.random() < 0.5),
            lambda: ("http.method", r.choice(("POST", "PUT", "DELETE"))),
        ]
        if self.mode != "peer":
            plain += [
                lambda: ("geo.country", {"not": r.sample(COUNTRIES, 3)}),
                lambda: ("device.trusted", {"exists": r.random() < 0.7}),
                lambda: ("user.roles", r.sample(ROLES, 2)),
                lambda: ("risk.reasons", {"prefix": "impossible_"}),
                lambda: ("http.agent", {"wildcard": r.choice(("*Chrome/*", "*Firefox/*", "curl/*"))}),
                lambda: ("http.agent", {"contains": r.choice(("Windows", "Macintosh", "Linux", "okhttp"))}),
                lambda: ("http.path", {"regex": r".*/(edit|export)"}),
                lambda: ("geo.city", {"is": "string"}),
                lambda: ("risk.reasons", {"length": {"gte": r.randint(1, 2)}}),
                lambda: ("items", {"some": {"kind": r.choice("abc"), "count": {"gt": 3}}}),
                lambda: ("user.locale", {"equals": "ZH-cn", "ignore_case": True}),
            ]
        while True:
            path, argument = r.choice(plain)()
            if not isinstance(argument, dict) or argument.keys() <= ALL_OPERATORS.keys() | {"ignore_case"}:
                return path, argument


def domain(tenant: int) -> str:
    return f"tenant{tenant}.example.com"


def user_id(tenant: int, user: int) -> str:
    return f"u{tenant:05}-{user:03}"


def device_id(tenant: int, device: int) -> str:
    return f"d{(tenant * 7919 + device * 104729) % 2**31:08x}"
