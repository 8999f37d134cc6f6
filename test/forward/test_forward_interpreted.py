"""What is taken inside SGLang's kernels: `support/interpreted.py` collects `*_triton.py`."""
