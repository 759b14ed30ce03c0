"""Email over SMTP. Entry: `open_channel`, which the channel registry calls."""

from .channel import open_channel, read_settings

__all__ = ["open_channel", "read_settings"]
