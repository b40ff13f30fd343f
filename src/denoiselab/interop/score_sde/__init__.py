"""Checkpoints of yang-song/score_sde_pytorch."""
