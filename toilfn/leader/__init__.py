"""The leader's process: from the lease to the result."""
