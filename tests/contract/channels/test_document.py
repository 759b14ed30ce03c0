"""The example in docs/writing-a-channel.md is a working channel."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from contract.channels.sides import World

from engine import channels
from engine.model.errors import Deferred, PolicyError
from engine.model.messages import Delivery

PAGE = (Path(__file__).parents[3] / "docs/writing-a-channel.md").read_text()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"^```python file=\S+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    line = re.search(r'^```python\n"folder": (.*?)\n```$', PAGE, re.MULTILINE)
    assert code is not None and line is not None
    module = ModuleType("engine.channels.folder")
    module.__package__ = "engine.channels"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code[1], "folder.py", "exec"), module.__dict__)
    monkeypatch.setitem(channels.TYPES, "folder", eval(line[1], vars(channels)))


async def test_the_channel_of_the_page_sends(world: World, delivery: Delivery, tmp_path: Path) -> None:
    channel = world.open("folder", path=str(tmp_path))
    assert await channel.send(delivery) == f"written to {delivery.id}.txt"
    assert (tmp_path / f"{delivery.id}.txt").read_text() == "Was it you?"


async def test_the_channel_of_the_page_fails_as_the_contract_says(
    world: World, delivery: Delivery, tmp_path: Path
) -> None:
    with pytest.raises(Deferred, match="cannot write"):
        await world.open("folder", path=str(tmp_path / "nowhere")).send(delivery)
    with pytest.raises(PolicyError, match="not an absolute path"):
        world.open("folder", path="here")


def test_every_name_on_the_page_exists() -> None:
    root = Path(__file__).parents[3]
    for path in re.findall(r"`((?:engine|schemas|tests)/[^`]+)`", PAGE):
        assert (root / path).exists(), path
    schema = (root / "schemas/policy.schema.json").read_text()
    for type_ in channels.TYPES.keys() - {"folder"}:
        assert f'"channel_{type_}"' in schema, f"no schema for channel type {type_}"
