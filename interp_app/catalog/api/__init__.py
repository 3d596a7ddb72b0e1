"""The catalog under /api/v1/: models and prompt sets."""
