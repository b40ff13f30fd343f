"""Statistics of the data that samples are scored against: `files` makes and reads ours, `given` those of a user."""
