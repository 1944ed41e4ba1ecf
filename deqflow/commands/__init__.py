"""What the ``deqflow`` command does with the estimator; one module per command."""
