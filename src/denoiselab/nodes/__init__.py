"""Configuration nodes: what a `_target_` takes, whether it is allowed, and the object that it makes."""
