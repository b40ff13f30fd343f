"""NVlabs' EDM and EDM2."""
