"""The parts of `toilfn.clusters.kubernetes`."""
