"""Configuration to the objects of a run."""
