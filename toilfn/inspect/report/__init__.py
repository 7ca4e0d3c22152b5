"""One self-contained page about a workflow: `toilfn report`."""
