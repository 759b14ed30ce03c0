"""Planning: from an event to finished deliveries, rendered. Pure.

Entry: `planner.plan`. `limits/` has dedupe, throttle, digest and budget.
"""
