"""The paths of the repository and of the installed command."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

MSS = Path(sys.executable).parent / "mss"
