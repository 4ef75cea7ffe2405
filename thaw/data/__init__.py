"""The data set: manifest, splits, pictures; knows tables and pixels."""
