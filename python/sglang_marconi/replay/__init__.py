"""Request streams: reading and making them, driving a server with them, reporting on it."""
