"""The leader's machine as a cluster."""
