"""Parts of a laboratory for denoiselab: a class and a file in `conf/` each."""
