"""Programs in containers: `toilfn.docker`, on whichever engine this machine has."""
