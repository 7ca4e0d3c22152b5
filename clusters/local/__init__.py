"""The machine of the leader as a cluster."""
