"""``mss init``: a first policy to edit."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import MssError
from ..starting import write_starter


@click.command(short_help="Write a first policy to edit into DIR.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a first policy to edit into DIR, which must be empty or new.

    Two channels, a rule, its words in two languages, the schema of its event, and tests: mss check and
    mss test find nothing wrong with it.
    """
    try:
        names = write_starter(folder)
    except (MssError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for name in names:
        click.echo(f"  {folder / name}")
    click.echo(f"Next: mss check {folder}; mss test {folder}; then edit, beginning with rules.yaml.")
