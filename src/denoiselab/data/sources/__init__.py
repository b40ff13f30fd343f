"""One file per source of data: image files, archives, arrays, published sets, hubs, and densities.

What is wrong with files or options is a `ValueError` that names the option.
"""
