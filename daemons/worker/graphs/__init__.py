"""LangGraph graphs as tasks: projects, fingerprints, and their runs in child processes."""
