"""Which cell is better, and how sure that is: comparisons of scores whose samples share their noise."""
