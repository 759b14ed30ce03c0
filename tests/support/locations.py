"""Where the repository and the installed command are."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

MSS = Path(sys.executable).parent / "mss"
