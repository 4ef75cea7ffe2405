"""The toy has one task of its own: bringing the data."""
