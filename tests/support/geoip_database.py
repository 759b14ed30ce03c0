"""A small MaxMind database with a few networks."""

from __future__ import annotations

from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPSet

BOXFORD = {
    "continent": {"names": {"en": "Europe", "zh-CN": "欧洲"}},
    "country": {"names": {"en": "United Kingdom", "zh-CN": "英国"}},
    "city": {"names": {"en": "Boxford"}},
    "location": {"latitude": 51.75, "longitude": -1.25, "time_zone": "Europe/London"},
}
JAPAN = {
    "continent": {"names": {"en": "Asia", "zh-CN": "亚洲"}},
    "country": {"names": {"en": "Japan", "zh-CN": "日本"}},
    "location": {"latitude": 35.68536, "longitude": 139.75309, "time_zone": "Asia/Tokyo"},
}


def write_database(path: Path, *, city: str = "Boxford") -> Path:
    """Write the database in one step, by a rename, and return its path."""
    writer = MMDBWriter(6, "Test-City", languages=["en", "zh-CN"], ipv4_compatible=True)
    writer.insert_network(IPSet(["2.125.160.216/29"]), {**BOXFORD, "city": {"names": {"en": city}}})
    writer.insert_network(IPSet(["2001:218::/32"]), JAPAN)
    temporary = path.with_name(f"{path.name}.new")
    writer.to_db_file(str(temporary))
    temporary.replace(path)
    return path
