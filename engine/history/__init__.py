"""The history: plans, receipts, dead letters, and the archive of events.

Entry: `trace_reader.open_trace`. `replay/` runs past events through another policy.
"""
