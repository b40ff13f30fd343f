"""Configuration nodes: what a `_target_` takes, whether it is allowed, and the object that it makes.

What is refused is a `BadInput`, whose sentence names the option, what is wrong and what is allowed.
"""
