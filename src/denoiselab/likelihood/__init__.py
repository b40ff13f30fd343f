"""Likelihood in bits per dimension: by the ODE and by variational bounds."""
