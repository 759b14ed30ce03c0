"""The number of examples in property tests: HYPOTHESIS_PROFILE=nightly runs many more."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Recursive strategies are slow at times, which is no fault of the tested code.
_SLOW = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)

settings.register_profile("default", max_examples=300, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("nightly", parent=settings.get_profile("default"), max_examples=20_000)
_PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
settings.load_profile(_PROFILE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _PROFILE == "nightly":
        for item in items:
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(3600))  # 20,000 examples take minutes
