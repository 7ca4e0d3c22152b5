"""Parasol."""
