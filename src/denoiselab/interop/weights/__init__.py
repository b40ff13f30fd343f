"""Files of other code bases, and which of their weights is which of ours."""
