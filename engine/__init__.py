"""MSS: a declarative routing engine for messages, driven by rules."""
