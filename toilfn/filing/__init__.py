"""What is behind the files of a workflow: sessions of attempts, the node's cache, transfers."""
