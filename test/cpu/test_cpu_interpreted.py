"""Comparisons with SGLang's kernels: `support/interpreted.py` collects those of `*_triton.py`."""
