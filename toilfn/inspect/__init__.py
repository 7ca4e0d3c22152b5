"""Read stores for people: state, explanations, drawings and the report."""
