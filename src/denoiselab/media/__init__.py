"""Images, waveforms and points: how they are stored, shown and written."""
