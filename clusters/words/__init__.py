"""Each batch system's own words for what becomes of jobs, and ours."""
