"""Run one attempt after the other, and prepare the surroundings of each."""
