"""What every app shares: people, ids, visibility, tokens, audit, errors, pagination, health."""
