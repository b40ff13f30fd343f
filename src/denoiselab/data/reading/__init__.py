"""Files to images of one shape: opening, decoding, depths, captions, and the first pass over a set."""
