"""One file a program: what it checks, and what it does."""
