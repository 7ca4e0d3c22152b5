"""A worker: it runs one attempt after the other, and prepares the surroundings of each."""
