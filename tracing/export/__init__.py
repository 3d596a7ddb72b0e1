"""Recorded graphs as scripts for other libraries: `graph.to_nnsight_source()`."""
