"""Reading files of weights, checking their contents, and mapping their names to ours."""
