"""Runs under /api/v1/: methods, runs with their events, panels and artifacts, the queue and the workers."""
