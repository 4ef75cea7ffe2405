"""A trained model away from its project: a folder that knows everything, and its use."""
