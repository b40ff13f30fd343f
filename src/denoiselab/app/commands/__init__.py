"""One file a command: what it checks, and what it does."""
