"""Text of the command line and of YAML files to checked trees."""
