"""One file per source of data: image files, archives, arrays, published sets, hubs, and densities."""
