"""Pages of runs: one template for each part, used by the dashboard of a store, by the server and by the report."""
