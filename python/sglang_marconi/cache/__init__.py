"""SGLang's unified radix cache, driven by ``sglang_marconi.policy``."""
