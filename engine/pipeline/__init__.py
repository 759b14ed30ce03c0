"""The consumers of the streams: ingest events, flush digests, deliver messages.

Entry: `ingest` for events, `deliver` for deliveries.
"""
