"""What a model looks at, what it costs, and a picture of it."""
