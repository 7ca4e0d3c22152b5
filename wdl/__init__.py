"""WDL documents become tasks."""
