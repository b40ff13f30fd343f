"""The entry layer: configuration to objects, checks, run directories, exit codes."""
