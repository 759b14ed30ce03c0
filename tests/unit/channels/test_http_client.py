"""The HTTP client of webhook channels and http actions."""

from __future__ import annotations

import gc
import warnings

import aiohttp

from engine.channels.http_client import HttpClient


async def test_a_client_without_a_request_leaves_nothing_open() -> None:
    """A reload that fails drops channels that an action has opened, and cannot close each of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        HttpClient("http://127.0.0.1:1", limit=1, timeout=aiohttp.ClientTimeout(total=1.0))
        gc.collect()
    assert [str(each.message) for each in caught] == []


async def test_a_client_without_a_request_can_be_closed() -> None:
    await HttpClient("http://127.0.0.1:1", limit=1, timeout=aiohttp.ClientTimeout(total=1.0)).close()
