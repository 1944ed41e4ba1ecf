"""Training: options, losses, the loop and its checkpoints."""
