"""What experiments run on: the models the lab allows, and prompt sets with their immutable versions."""
