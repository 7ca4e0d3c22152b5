"""Running one task of a store again, for `toilfn debug`."""
