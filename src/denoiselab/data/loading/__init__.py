"""The order of training images, and batches of them for the Trainer."""
