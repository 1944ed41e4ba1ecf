"""A local page: drop a clip or two frames, see and take away their flow."""
