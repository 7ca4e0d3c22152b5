"""What runs in the leader's process: from the lease to the result."""
