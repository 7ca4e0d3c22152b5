"""CWL documents become tasks."""
