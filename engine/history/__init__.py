"""The history: plans, receipts, dead letters, and the archive of events.

Entry: `trace` shows what became of an event. `replay/` runs past events through another policy.
"""
