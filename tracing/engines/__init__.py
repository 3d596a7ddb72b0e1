"""Who runs a recorded program: the local model, through hooks."""
