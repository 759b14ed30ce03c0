"""The nouns that all packages share: events, deliveries, problems, errors. Pure. Entry: `messages.Event`."""
