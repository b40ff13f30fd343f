"""Tables, pictures and pages of frontiers."""
