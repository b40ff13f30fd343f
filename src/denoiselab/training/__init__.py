"""Training: one LightningModule, the moving averages of weights, checkpoints, interruption."""
