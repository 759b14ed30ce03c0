"""The rule language: conditions, schedules, and the compiled rulebook. Pure.

Entry: `rulebook.Rulebook.match` returns the rules that match an event; `index/` finds them.
"""
