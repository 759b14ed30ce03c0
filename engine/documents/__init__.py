"""YAML 1.2 files with a place for every value, and JSON Schema validation with errors for operators.

Entry: `yaml.read_bytes` reads a file, `schemas.check` validates a document.
"""
