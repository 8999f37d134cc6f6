"""Whether a server with this backend would start here, found out before a model is loaded.

SGLang and torch are imported in a process of their own (``server``), so that whatever happens
there is a finding too.
"""

from sglang_marconi.doctor.examine import examine
from sglang_marconi.doctor.findings import Finding

__all__ = ["Finding", "examine"]
