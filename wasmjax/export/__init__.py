"""The same weights for other frameworks."""
