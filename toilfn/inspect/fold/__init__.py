"""A run folded from its log: what status, statistics, the report and the pages show, without objects for tasks."""
