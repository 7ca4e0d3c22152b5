"""HTML pages of runs. The dashboard, the server and the report render them from the same templates."""
