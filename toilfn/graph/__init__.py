"""The graph that a script builds: tasks, promises, their identity and how they are recorded."""
