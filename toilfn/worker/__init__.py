"""What runs on a worker: one attempt after the other, and what each needs around it."""
