"""One module per experiment; each says its command, hardware, time and accuracy, and has a `CONFIG`."""
