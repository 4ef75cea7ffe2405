"""What draws and words a result."""
