"""The kernels on a machine without a GPU: `support/interpreted.py` collects the tests."""
