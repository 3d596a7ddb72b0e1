"""Edges between components: attribution, exact patching, and certificates of both."""
