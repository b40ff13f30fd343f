"""The order of training samples, their batches, and the processes that load them."""
