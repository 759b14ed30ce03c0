"""The console: one readable block per delivery, without control characters."""

from __future__ import annotations

from contract.channels.sides import World
from msgspec.structs import replace

from engine.model.messages import Delivery, Message


async def test_a_delivery_is_one_block(world: World, delivery: Delivery) -> None:
    channel = world.open("console", name="terminal")
    await channel.send(
        replace(delivery, channel="terminal", locale="zh-CN", message=Message(title="验证", text="a\nb"))
    )
    (block,) = world.written
    head, *rest = block.splitlines()
    assert head.startswith("--- terminal ---")
    assert rest == ["to:     a@x.test", "locale: zh-CN", "title:  验证", "", "a", "b"]


async def test_a_delivery_without_text_prints_the_event(world: World, delivery: Delivery) -> None:
    await world.open("console").send(replace(delivery, message=Message(), to=()))
    assert '"type":"notice.login.abnormal"' in world.written[0]
    assert "to:     u1" in world.written[0]


async def test_control_characters_do_not_reach_the_terminal(world: World, delivery: Delivery) -> None:
    evil = Message(title="x\x1b]0;owned\x07\r\nlocale: y", text="\x1b[2Jgone")
    await world.open("console").send(replace(delivery, message=evil))
    assert "\x1b" not in world.written[0]
    assert "\r" not in world.written[0]
