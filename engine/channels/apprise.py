"""Any service that Apprise supports: SMS, chat, push.

The plugins of Apprise block, so each channel has threads for them. A thread cannot be stopped: one that hangs
occupies its slot until it ends, and there are few slots.

Apprise imports its 130 plugins before it parses a URL, which takes longer than the rest of a check. A plugin
names its schemas in the class attributes ``protocol`` and ``secure_protocol``. This module finds the file of
a plugin by them, and imports it alone. If it finds none, it asks Apprise.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apprise
from apprise.exception import AppriseException
from apprise.plugins import NotifyBase

from ..model.errors import ChannelError, Deferred, Refused, Unknown
from ..model.masking import longest_first, mask
from ..model.messages import Delivery, Message, Severity
from ..rules.rulebook import ChannelSpec
from . import ChannelResources, unusable

_SAMPLE_ADDRESS = ("+15550001111",)  # for a URL that is checked and not called
_MAX_THREADS = 8
_MAX_IDLE_SERVICES = 256  # services kept for the next message, for all addresses
_MAX_DETAIL_LENGTH = 500  # characters
_PERMANENT = (400, 401, 403, 404, 410, 422)  # statuses after which a retry ends the same

_STATUS = re.compile(r"\berror=(\d{3})\b")
_REQUEST_URL = re.compile(r"with url: \S+")  # may have tokens
_CAUSE = re.compile(r"^(?:Socket|I/O) Exception|^Response Details", re.IGNORECASE)
_NEVER_CONNECTED = re.compile(r"NewConnectionError|ConnectTimeout|NameResolution|SSLError|connect timeout")
_NO_RESPONSE = re.compile(
    r"Read ?timed ?out|ReadTimeout|read timeout|RemoteDisconnected|Connection aborted|IncompleteRead"
    r"|Connection reset|Connection broken",
    re.IGNORECASE,
)
_TYPES = {
    Severity.HIGH: apprise.NotifyType.FAILURE,
    Severity.MEDIUM: apprise.NotifyType.WARNING,
    Severity.LOW: apprise.NotifyType.INFO,
    Severity.NONE: apprise.NotifyType.INFO,
}

_PACKAGE = "apprise.plugins"
_SCHEMA = re.compile(r"([a-z0-9]{1,32})://", re.IGNORECASE)
_NAMES = re.compile(
    r"^\s+(?:secure_)?protocol\b[^=\n]*=\s*(\([^)]*\)|\[[^\]]*\]|[\"'][^\"']*[\"'])", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppriseSettings:
    """The options of a channel of type ``apprise``."""

    url: str = field(repr=False)  # {to} stands for the address

    def for_address(self, to: tuple[str, ...]) -> str:
        if "{to}" not in self.url:
            return self.url
        if not to:
            raise Refused("the delivery has no address")
        return self.url.replace("{to}", quote(to[0], safe=""))


class AppriseChannel:
    """A channel that sends each delivery over the service that the URL names."""

    def __init__(self, settings: AppriseSettings, *, timeout: float, concurrency: int) -> None:
        threads = min(concurrency, _MAX_THREADS)
        self._settings = settings
        self._timeout = timeout
        self._slots = asyncio.Semaphore(threads)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="apprise")
        self._services = _Services(timeout)
        # Parts of the URL that may be secrets: they must not be in a receipt.
        parts = re.split(r"[/:@?&=#,;]+", settings.url)
        self._secrets = longest_first(part for part in parts if len(part) >= 8 and "{" not in part)

    async def send(self, delivery: Delivery) -> str:
        url = self._settings.for_address(delivery.to)
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise Deferred(f"every thread has been busy for {self._timeout:g} s") from None
        loop = asyncio.get_running_loop()
        try:
            call = loop.run_in_executor(self._threads, self._call, url, delivery)
        except RuntimeError:  # closed in the meantime
            self._slots.release()
            raise Deferred("the channel is closed") from None
        call.add_done_callback(self._release)
        # Not wait_for: it would cancel the call, which the thread does not notice.
        await asyncio.wait({call}, timeout=self._timeout)
        if not call.done():
            raise Unknown(f"the service has not finished within {self._timeout:g} s")
        outcome = call.result()
        if isinstance(outcome, ChannelError):
            raise outcome
        return outcome

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _release(self, call: asyncio.Future[str | ChannelError]) -> None:
        self._slots.release()
        if not call.cancelled():
            call.exception()  # else asyncio logs it if the sender is gone

    def _call(self, url: str, delivery: Delivery) -> str | ChannelError:
        """Send one message with one service, on a thread."""
        try:
            service = self._services.acquire(url)
        except Refused as error:
            return error
        plugin = service[0]
        body, body_format = _content(delivery.message, plugin)
        with service.notify(
            body=body,
            title=delivery.message.title,
            body_format=body_format,
            notify_type=_TYPES[delivery.severity],
            log_level=logging.DEBUG,
        ) as result:
            lines = [(entry.level, entry.message) for entry in result.logs()]
            timed_out = result.status == apprise.AppriseResultStatus.TIMEOUT
            sent = bool(result)
        self._services.release(url, service)
        if sent:
            return f"{plugin.service_name}: sent"
        return self._judge(str(plugin.service_name), lines, timed_out=timed_out)

    def _judge(self, name: str, lines: list[tuple[str, str]], *, timed_out: bool) -> ChannelError:
        """Return the error that the log lines of the plugin stand for: it returns nothing else."""
        reasons = [text for level, text in lines if level != "DEBUG" or _CAUSE.match(text)]
        detail = " ".join(_REQUEST_URL.sub("", " ".join(reasons)).split())
        status = _STATUS.search(detail)
        detail = f"{name}: {mask(detail, self._secrets)}"[:_MAX_DETAIL_LENGTH]
        if status is not None:
            return (Refused if int(status[1]) in _PERMANENT else Deferred)(detail)
        if not _NEVER_CONNECTED.search(detail) and (timed_out or _NO_RESPONSE.search(detail)):
            return Unknown(detail)
        return Deferred(detail)


def open_channel(spec: ChannelSpec, resources: ChannelResources) -> AppriseChannel:
    _load()
    return AppriseChannel(read_settings(spec), timeout=spec.timeout, concurrency=spec.concurrency)


def read_settings(spec: ChannelSpec) -> AppriseSettings:
    _keep_logs_apart()
    settings = AppriseSettings(url=spec.options["url"])
    try:
        url = settings.for_address(_SAMPLE_ADDRESS)
        if not usable_alone(url):
            _load()
            instantiate(url, None)
    except Refused as error:
        raise unusable(spec, str(error)) from error
    return settings


def instantiate(url: str, asset: apprise.AppriseAsset | None) -> Any:
    """Return the plugin that ``url`` names. Raises Refused if it cannot."""
    try:
        plugin = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=False)
    except (TypeError, ValueError, LookupError, AttributeError, AppriseException) as error:
        raise Refused(f"Apprise cannot use the URL: {error}") from error
    if plugin is None:
        raise Refused("Apprise does not know the URL")
    return plugin


class _Services:
    """Services for the next message, by URL, each with one plugin and for one call at a time. Thread-safe."""

    def __init__(self, timeout: float) -> None:
        # The plugin's own limits end a call before the channel's: its log then says why.
        self._connect_limit = min(4.0, timeout * 0.4)
        self._read_limit = timeout * 0.5
        self._lock = threading.Lock()
        self._idle: list[tuple[str, apprise.Apprise]] = []  # with its URL; the one used last is last
        self._asset = apprise.AppriseAsset(
            async_mode=False,  # on our thread, not on one of its own
            service_timeout=0,
            storage_mode=apprise.PersistentStoreMode.MEMORY,
        )

    def acquire(self, url: str) -> apprise.Apprise:
        """Return a service that only this call uses. Raises Refused if the URL names none."""
        with self._lock:
            for at in reversed(range(len(self._idle))):
                if self._idle[at][0] == url:
                    return self._idle.pop(at)[1]
        return self._new(url)

    def release(self, url: str, service: apprise.Apprise) -> None:
        with self._lock:
            self._idle.append((url, service))
            del self._idle[:-_MAX_IDLE_SERVICES]

    def _new(self, url: str) -> apprise.Apprise:
        plugin = instantiate(url, self._asset)
        plugin.request_rate_per_sec = 0.0  # it would sleep on our thread; the rate of the channel counts
        plugin.retry = 0  # the delivery worker retries
        if plugin.socket_connect_timeout == apprise.URLBase.socket_connect_timeout:
            plugin.socket_connect_timeout = self._connect_limit
        if plugin.socket_read_timeout == apprise.URLBase.socket_read_timeout:
            plugin.socket_read_timeout = self._read_limit
        service = apprise.Apprise(asset=self._asset)
        service.add(plugin)
        return service


def _content(message: Message, plugin: Any) -> tuple[str, apprise.NotifyFormat]:
    """Return the content that suits the service, and its format."""
    if message.html and (plugin.notify_format == apprise.NotifyFormat.HTML or not message.text):
        return message.html, apprise.NotifyFormat.HTML
    markdown = apprise.NotifyFormat.MARKDOWN if message.markdown else apprise.NotifyFormat.TEXT
    return message.text, markdown


def _keep_logs_apart() -> None:
    log = logging.getLogger("apprise")
    # Its lines have tokens and messages: they go into receipts, masked, and into no log.
    log.propagate = False
    log.setLevel(logging.DEBUG)  # it logs the cause of a failure at this level
    if not log.handlers:
        log.addHandler(logging.NullHandler())


def _load() -> None:
    """Load every plugin now: the time limit of the first message is too short for it."""
    _keep_logs_apart()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what the plugins import
        apprise.Apprise.instantiate("json://localhost")


def usable_alone(url: str) -> bool:
    """Return whether the plugin that ``url`` names accepts it. If False, only Apprise knows."""
    schema = _SCHEMA.match(url)
    plugin = plugin_of(schema[1].lower()) if schema is not None else None
    if plugin is None or not plugin.enabled:
        return False
    try:
        # apprise.Apprise.instantiate does the same, after it has loaded all plugins.
        settings = plugin.parse_url(url.replace("/#", "/%23"))
        return bool(settings and plugin(**settings, tag=set(), asset=apprise.AppriseAsset()).enabled)
    except (TypeError, ValueError, LookupError, AttributeError, AppriseException):
        return False  # Apprise reports it


@cache
def plugin_of(schema: str) -> Any | None:
    """Return the class that serves ``schema``; None unless exactly one file names the schema."""
    names = [name for name, text in _sources() if _serves(text, schema)]
    if len(names) != 1:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what the plugins import
        module = import_module(f"{_PACKAGE}.{names[0]}")
    classes: list[Any] = [
        each for each in vars(module).values() if isclass(each) and issubclass(each, NotifyBase)
    ]
    found = [each for each in classes if schema in each.schemas(each)]
    return found[0] if len(found) == 1 else None


def _sources() -> list[tuple[str, str]]:
    """Return the module and the text of each plugin file; a package has several files."""
    folder = Path(str(import_module(_PACKAGE).__file__)).parent
    files = [(path.relative_to(folder).parts[0].removesuffix(".py"), path) for path in folder.rglob("*.py")]
    return [(name, path.read_text("utf-8")) for name, path in files if name not in ("__init__", "base")]


def _serves(text: str, schema: str) -> bool:
    quoted = (f'"{schema}"', f"'{schema}'")
    if not any(each in text for each in quoted):
        return False
    return any(any(each in names for each in quoted) for names in _NAMES.findall(text))
