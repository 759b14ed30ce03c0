"""One plugin of Apprise, without the hundred and thirty others.

Apprise imports all of them before it looks at a URL, which takes longer than everything else that a check
does. A plugin names its schemas in the class attributes ``protocol`` and ``secure_protocol``: by these its
file is found and imported alone. Whoever finds nothing here asks Apprise itself.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import Any

import apprise
from apprise.exception import AppriseException
from apprise.plugins import NotifyBase

_PACKAGE = "apprise.plugins"
_SCHEMA = re.compile(r"([a-z0-9]{1,32})://", re.IGNORECASE)
_NAMES = re.compile(
    r"^\s+(?:secure_)?protocol\b[^=\n]*=\s*(\([^)]*\)|\[[^\]]*\]|[\"'][^\"']*[\"'])", re.MULTILINE
)


def usable_alone(url: str) -> bool:
    """Whether the plugin that ``url`` names takes it. False is no answer: ask Apprise."""
    schema = _SCHEMA.match(url)
    plugin = plugin_of(schema[1].lower()) if schema is not None else None
    if plugin is None or not plugin.enabled:
        return False
    try:
        # As apprise.Apprise.instantiate does it, which would load the others first.
        settings = plugin.parse_url(url.replace("/#", "/%23"))
        return bool(settings and plugin(**settings, tag=set(), asset=apprise.AppriseAsset()).enabled)
    except (TypeError, ValueError, LookupError, AttributeError, AppriseException):
        return False  # Apprise says it in its own words


@cache
def plugin_of(schema: str) -> Any | None:
    """The class that serves ``schema``; None where no one file says that it does."""
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
    """The plugins as modules and the text of each file; one that is a package has several."""
    folder = Path(str(import_module(_PACKAGE).__file__)).parent
    files = [(path.relative_to(folder).parts[0].removesuffix(".py"), path) for path in folder.rglob("*.py")]
    return [(name, path.read_text("utf-8")) for name, path in files if name not in ("__init__", "base")]


def _serves(text: str, schema: str) -> bool:
    quoted = (f'"{schema}"', f"'{schema}'")
    if not any(each in text for each in quoted):
        return False
    return any(any(each in names for each in quoted) for names in _NAMES.findall(text))
