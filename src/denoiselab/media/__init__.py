"""Images, waveforms and points as files.

`kinds` says how each is shown and written, `figures` draws the pictures, `labels` the captions.
"""
