"""Requests/s, latency and CPU of actions, next to a bare responder on the same broker in the same run.

    python tests/bench/actions.py [--seconds 4] [--json]

One `mss serve` process, one nats-server, the caller in a process of its own, mail servers in another.
The bare responder is nats-py with a callback that decodes the envelope and answers it with an empty
payload: the ratio to it is what to compare between machines, and so is the rate at concurrency 64 to
that at 1. `far` is a mail server with 50 ms latency, at which every reply is so late; `slow` one that
takes 50 ms to accept a message.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from support.geoip_database import write_database  # noqa: E402
from support.locations import MSS  # noqa: E402
from support.processes import write_config  # noqa: E402
from support.waiting import until  # noqa: E402
from support.wire_messages import envelope  # noqa: E402 -- found next to this folder

from engine.broker.embedded import embedded_broker  # noqa: E402

PREFIX = "kiam.console.action"
SLOW = 0.05  # seconds
WORDS = "---\nsubject: '{{ payload.subject }}'\n---\nHello {{ payload.userid }}, open {{ payload.href }}\n"


async def serve_mail(ports: Any) -> None:
    """Mail servers that accept everything: at once, with slow mails, or with slow replies."""

    async def converse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mail: float, reply: float
    ) -> None:
        async def say(words: bytes, delay: float) -> None:
            if delay:
                await asyncio.sleep(delay)
            writer.write(words)

        await say(b"220 bench\r\n", reply)
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                await say(b"354 go ahead\r\n", reply)
                await reader.readuntil(b"\r\n.\r\n")
                await say(b"250 taken\r\n", mail + reply)
            elif verb == b"QUIT":
                break
            else:
                await say(b"250 ok\r\n", reply)
        writer.close()

    servers = [
        await asyncio.start_server(lambda r, w, delays=delays: converse(r, w, *delays), "127.0.0.1", 0)
        for delays in ((0.0, 0.0), (SLOW, 0.0), (0.0, SLOW))
    ]
    ports.put([server.sockets[0].getsockname()[1] for server in servers])
    await asyncio.Event().wait()


def mail_servers(ports: Any) -> None:
    asyncio.run(serve_mail(ports))


async def respond(address: str, ready: Any) -> None:
    """The bare responder."""
    client = await nats.connect(address)

    async def answer(msg: nats.aio.msg.Msg) -> None:
        asked = json.loads(msg.data)
        reply = {
            "version": "0.1.1",
            "time": 1,
            "reqid": asked["reqid"],
            "code": 0,
            "message": "ok",
            "payload": None,
        }
        await msg.respond(json.dumps(reply).encode())

    await client.subscribe(f"{PREFIX}.bare", queue="bare", cb=answer)
    await client.flush()
    ready.set()
    await asyncio.Event().wait()


def bare_responder(address: str, ready: Any) -> None:
    asyncio.run(respond(address, ready))


async def call(
    address: str, key: str, payload: dict[str, Any], concurrency: int, seconds: float
) -> dict[str, Any]:
    client = await nats.connect(address)
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < end:
            data = envelope(payload, reqid=uuid4().hex)
            reply = json.loads((await client.request(f"{PREFIX}.{key}", data, timeout=30)).data)
            assert reply["code"] == 0, reply
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    elapsed = time.perf_counter() - began
    await client.close()
    took.sort()
    return {
        "requests": len(took),
        "per_s": round(len(took) / elapsed, 1),
        "p50_ms": round(took[len(took) // 2] * 1000, 2),
        "p99_ms": round(took[int(len(took) * 0.99)] * 1000, 2),
    }


def caller_process(*arguments: Any) -> dict[str, Any]:
    return asyncio.run(call(*arguments))


def policy(folder: Path, fast: int, slow: int, far: int) -> Path:
    def email(port: int) -> dict[str, Any]:
        mta = {"host": "127.0.0.1", "port": port, "tls": "none"}
        return {"type": "email", "from": "a@example.com", "concurrency": 64, "mtas": [mta]}

    notify = {"handler": "notify", "template": "t", "to": {"email": "to", "locale": "locale"}}
    rules = {
        "channels": {"fast": email(fast), "slow": email(slow), "far": email(far)},
        "actions": {
            "sendverifyemail": {**notify, "channel": "fast"},
            "slowverifyemail": {**notify, "channel": "slow"},
            "farverifyemail": {**notify, "channel": "far"},
            "iplocation": {"handler": "iplocation", "database": str(write_database(folder / "city.mmdb"))},
        },
    }
    (folder / "rules" / "templates" / "t").mkdir(parents=True)
    (folder / "rules" / "policy.yaml").write_text(json.dumps(rules))
    (folder / "rules" / "templates" / "t" / "email.txt").write_text(WORDS)
    return folder / "rules"


def cpu_of(process: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def measure(address: str, folder: Path, seconds: float, ports: list[int], bare: int) -> dict[str, Any]:
    config = write_config(folder, address, policy(folder, *ports), log={"level": "error"})
    engine = subprocess.Popen([str(MSS), "serve", "-c", str(config)])
    client = await nats.connect(address)

    async def serves() -> bool:
        try:
            await client.request(f"{PREFIX}.iplocation", envelope({"ipaddr": "8.8.8.8"}), timeout=5)
        except nats.errors.NoRespondersError:
            return False
        return True

    await until(serves, what="the engine serves")
    mail = {
        "subject": "s",
        "userid": "u",
        "to": "u@example.com",
        "href": "https://x.example/v?t=1",
        "locale": "en",
    }
    cases = {
        "bare": {"x": 1},
        "iplocation": {"ipaddr": "2.125.160.216", "locale": "en"},
        "sendverifyemail": mail,
        "slowverifyemail": mail,
        "farverifyemail": mail,
    }
    results: dict[str, Any] = {}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:

        async def run(*arguments: Any) -> dict[str, Any]:
            return await asyncio.get_running_loop().run_in_executor(pool, caller_process, *arguments)

        await run(address, "iplocation", cases["iplocation"], 8, 0.5)
        for key, payload in cases.items():
            for concurrency in (1, 64):
                worker = bare if key == "bare" else engine.pid
                before = cpu_of(worker)
                result = await run(address, key, payload, concurrency, seconds)
                result["cpu_us"] = round((cpu_of(worker) - before) / result["requests"] * 1e6)
                results[f"{key} x{concurrency}"] = result
    engine.terminate()
    engine.wait()
    await client.close()
    for name in ("slow", "far"):
        at_one, at_64 = (results[f"{name}verifyemail x{n}"]["per_s"] for n in (1, 64))
        results[f"{name}: rate at 64 / at 1"] = round(at_64 / at_one, 1)
    results["iplocation / bare, at 64"] = round(
        results["iplocation x64"]["per_s"] / results["bare x64"]["per_s"], 2
    )
    return results


async def main(seconds: float, as_json: bool) -> None:
    spawn = multiprocessing.get_context("spawn")
    ports, ready = spawn.Queue(), spawn.Event()
    with tempfile.TemporaryDirectory() as name:
        async with embedded_broker(Path(name) / "nats") as address:
            helpers = [
                spawn.Process(target=mail_servers, args=(ports,), daemon=True),
                spawn.Process(target=bare_responder, args=(address, ready), daemon=True),
            ]
            for helper in helpers:
                helper.start()
            results = await measure(
                address, Path(name), seconds, ports.get() if ready.wait(30) else [], helpers[1].pid or 0
            )
            for helper in helpers:
                helper.terminate()
    if as_json:
        print(json.dumps(results))
        return
    for key, value in results.items():
        shown = "  ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{key:26} {shown}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    asyncio.run(main(chosen.seconds, chosen.json))
