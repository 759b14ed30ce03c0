"""A policy before it is active: loaded, compiled, checked (`lint/`), tested (`testing/`), pushed and watched.

Entry: `loader.load_policy`.
"""
