"""Sends a request stream to a running server and records how it was served."""
