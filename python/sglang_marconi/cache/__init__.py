"""SGLang's unified radix cache, driven by ``sglang_marconi.policy``."""

# The name under which SGLang knows our tree, ``tree_core.MarconiTreeCore``.
TREE_CORE = "marconi"
