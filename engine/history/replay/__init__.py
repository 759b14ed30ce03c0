"""Replay: past events through two policies, and the differences. Entry: `replay.Replay`."""
