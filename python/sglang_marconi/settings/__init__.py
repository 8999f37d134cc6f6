"""The settings of the backend: read and checked once, and what may change while serving."""
