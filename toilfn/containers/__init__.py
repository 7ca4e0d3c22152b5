"""Programs in containers: `toilfn.docker`, with the container engine of this machine."""
