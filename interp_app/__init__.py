"""The dashboard: models, prompt sets and runs of a lab, served by Django."""
