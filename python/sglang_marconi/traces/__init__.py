"""Request streams: read from files, or generated."""
