"""Reading a store for people: state, explanations, drawings and the report."""
