"""The tree of errors."""

from __future__ import annotations

import re

from engine.model import errors


def test_the_drawing_names_every_error() -> None:
    drawn = re.findall(r"[├└]── (\w+)", str(errors.__doc__))
    public = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.MssError) and not name.startswith("_")
    ]
    assert ["MssError", *drawn] == public
