"""The kernels on a machine without a GPU: `interpreted.py` collects the tests of this file."""
