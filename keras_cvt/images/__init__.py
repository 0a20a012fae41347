"""Pictures: from a file to the input of a model, and from its output to names."""
