"""Settings: where their values come from, how they are parsed and what they are."""
