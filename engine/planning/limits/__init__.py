"""The limits of a rule: dedupe, throttle, digest, time windows, budget. Entry: `stages`."""
