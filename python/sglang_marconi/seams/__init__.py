"""What of SGLang this package touches: one table, which hooks, checks and documents come from.

Imports neither torch nor SGLang until something is checked or hooked.
"""

from sglang_marconi.seams.check import (
    IncompatibleSGLang,
    check_seam,
    check_seams,
    resolve,
    seam_differences,
)
from sglang_marconi.seams.hooks import apply_hooks, hook
from sglang_marconi.seams.seam import Kind, Seam
from sglang_marconi.seams.table import SEAMS

__all__ = [
    "SEAMS",
    "IncompatibleSGLang",
    "Kind",
    "Seam",
    "apply_hooks",
    "check_seam",
    "check_seams",
    "hook",
    "resolve",
    "seam_differences",
]
