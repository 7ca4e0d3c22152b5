"""Shell commands as tasks: `toilfn.shell`."""
