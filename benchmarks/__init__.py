"""Measurements: each module is one command that writes one table under results/."""
