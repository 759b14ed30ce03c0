"""YAML 1.2 files with a place for every value, and validation with JSON Schemas.

Entry points: `yaml.read_bytes` reads a file, `schemas.check` validates a document.
"""
