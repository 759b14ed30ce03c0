"""Email over SMTP. Entry: `channel.open_channel`, which the channel registry calls."""
