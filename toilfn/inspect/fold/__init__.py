"""Fold the log of a run into columns, without objects for tasks, for status, statistics, the report and the pages."""
