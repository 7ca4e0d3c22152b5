"""The content of a store as typed records, and its readers."""
