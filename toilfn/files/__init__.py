"""Files of a workflow: handles, transfers and the cache of a node."""
