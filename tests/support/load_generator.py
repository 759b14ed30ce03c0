"""A load on a real engine and a real broker with real receivers, and the count of the messages that arrived."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
from contract.channels.sides import FakeSmtp, FakeWeb, World
from support.processes import Engine, NatsServer, client_options, unfinished, write_config
from support.waiting import until
from support.wire_messages import login

import msc

SOAK = bool(os.environ.get("MSS_SOAK"))  # True: at full size, which takes minutes
COUNT = 2000 if SOAK else 100
SEED = 20261125
# Short waits and many attempts, so a test never waits for a retry.
RETRY = {"attempts": 1000, "first": "200ms", "max": "1s", "deadline": "1h"}


def policy(folder: Path, smtp: FakeSmtp, hook: FakeWeb, **email: Any) -> Path:
    """Write a policy that sends each notice as a mail and as a webhook."""
    common = {"retry": RETRY, "timeout": "500ms", "concurrency": 32}
    mta = {"host": "127.0.0.1", "port": smtp.port, "tls": "none"}
    rules = {
        "channels": {
            "email": {"type": "email", "from": "a@example.com", "mtas": [mta], **common, **email},
            "crm": {"type": "webhook", "url": f"http://127.0.0.1:{hook.port}/", **common},
        },
        "rules": [{"id": "r", "event": "notice.login.abnormal", "template": "t", "notify": ["email", "crm"]}],
    }
    (folder / "rules" / "templates" / "t").mkdir(parents=True)
    (folder / "rules" / "policy.yaml").write_text(json.dumps(rules))
    (folder / "rules" / "templates" / "t" / "email.txt").write_text("---\nsubject: s\n---\nHello")
    return folder / "rules"


@dataclass
class Load:
    """One run: the published notices and the received messages."""

    broker: NatsServer
    engine: Engine
    smtp: FakeSmtp
    hook: FakeWeb
    random: random.Random = field(default_factory=lambda: random.Random(SEED))
    published: int = 0
    refusals: int = 0  # of publishes, by the broker

    async def publish(self, count: int = COUNT, *, pause: float = 0.004, filler: int = 0) -> None:
        """Publish ``count`` notices with confirmation, as an application with msc does.

        A refused publish is repeated. Each notice has ``filler`` extra bytes.
        """
        async with msc.connect(self.broker.address, buffer=64_000_000) as client:
            confirming = set()
            for number in range(count):
                payload = {**login(number), "filler": "x" * filler}
                confirming.add(asyncio.create_task(self._publish_one(client, payload)))
                await asyncio.sleep(pause)
            await asyncio.gather(*confirming)
        self.published = count

    async def _publish_one(self, client: msc.Client, payload: dict[str, Any]) -> None:
        while True:
            try:
                return await client.notice("login.abnormal", payload, confirm=True, timeout=120.0)
            except msc.MscError:
                self.refusals += 1
                await asyncio.sleep(0.5)

    @property
    def mails(self) -> Counter[str]:
        """The number of mails to each user."""
        found: Counter[str] = Counter()
        for body in self.smtp.bodies:
            recipient = re.search(rb"^To: (.*?)\r$", body, re.MULTILINE)
            assert recipient is not None
            found[recipient[1].decode()] += 1
        return found

    @property
    def hooks(self) -> Counter[str]:
        """The number of webhook requests for each delivery."""
        return Counter(headers["webhook-id"] for headers, _ in self.hook.requests)

    async def wait_until_delivered(self) -> None:
        """Wait until all messages arrived and all streams are empty."""
        async with asyncio.timeout(300 if SOAK else 60):
            while len(self.mails) < self.published or len(self.hooks) < self.published:
                await asyncio.sleep(0.05)
        client = await nats.connect(**client_options(self.broker))  # type: ignore[arg-type]
        js = client.jetstream()

        async def is_quiet() -> bool:
            return not any(
                [await unfinished(js, name) for name in ("MSS_NOTICE", "MSS_DELIVERY", "MSS_TIMER")]
            )

        await until(is_quiet, what="every stream empty")
        await client.close()

    async def verdict(self) -> str:
        """Check that nothing was lost, and that only deliveries with an unknown attempt were sent twice."""
        client = await nats.connect(**client_options(self.broker))  # type: ignore[arg-type]
        js = client.jetstream()
        state = (await js.stream_info("MSS_HISTORY")).state
        outcomes: dict[str, list[str]] = defaultdict(list)
        people: dict[str, str] = {}
        for sequence in range(state.first_seq, state.last_seq + 1):
            entry = json.loads((await js.get_msg("MSS_HISTORY", sequence)).data or b"{}")
            if entry["type"] == "receipt":
                outcomes[entry["delivery"]].append(entry["outcome"])
                if entry["channel"] == "email":
                    people[entry["to"][0]] = entry["delivery"]
        await client.close()
        mails = {people[person]: count for person, count in self.mails.items()}
        arrivals = {**mails, **self.hooks}
        repeated = {id_: count for id_, count in arrivals.items() if count > 1}
        unmarked = {
            id_: (count, outcomes[id_])
            for id_, count in repeated.items()
            if outcomes[id_].count("unknown") < count - 1
        }
        lost = 2 * self.published - len(arrivals)
        unknown = sum("unknown" in each for each in outcomes.values())
        summary = (
            f"seed {SEED}: {self.published} events, {len(arrivals)} deliveries arrived, {lost} lost, "
            f"{len(repeated)} sent again, {unknown} with an unknown attempt"
        )
        print(summary)
        assert lost == 0, summary
        assert not unmarked, unmarked
        assert {each[-1] for each in outcomes.values()} == {"sent"}
        return summary


@asynccontextmanager
async def load(
    folder: Path, *, broker_config: str = "", smtp: dict[str, Any] | None = None, **email: Any
) -> AsyncIterator[Load]:
    """Start everything, and stop it at the end."""
    async with AsyncExitStack() as stack:
        sides = World(stack)
        mail, hook = await sides.smtp(**(smtp or {})), await sides.web()
        broker = NatsServer(folder / "nats", broker_config)
        await broker.start()
        stack.push_async_callback(broker.kill)
        config = write_config(folder, broker.address, policy(folder, mail, hook, **email))
        engine = Engine(config=config, environment={})
        await engine.start()
        stack.push_async_callback(engine.end)
        yield Load(broker=broker, engine=engine, smtp=mail, hook=hook)
