"""Statistics of the data that samples are scored against."""
