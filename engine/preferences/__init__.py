"""Users' preferences: document, options, bucket, cache. Entry: `cache.PreferenceCache`."""
