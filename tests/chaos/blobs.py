"""Blobs that records of the log refer to."""

from __future__ import annotations

from toilfn.model import records


def references(record: object) -> list[records.BlobRef]:
    """Return all blobs in a record, at any depth."""
    if isinstance(record, records.BlobRef):
        return [record]
    if isinstance(record, tuple):
        return [ref for item in record for ref in references(item)]
    return []
