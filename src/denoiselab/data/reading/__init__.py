"""Records and files to bytes of one shape."""
