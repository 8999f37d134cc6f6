"""A prefix cache for hybrid language models inside SGLang.

Recurrent-state checkpoints are kept at branch points, found before the prefill
that would make them, and at the last decoded token; see
``sglang_marconi.plugin`` for how it reaches SGLang.
"""

__version__ = "0.1.0"
