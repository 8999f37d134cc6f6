"""Small models of every hybrid family that SGLang caches, with random weights."""

from families.build import build_family
from families.family import DUMMY_WEIGHTS, Family
from families.table import FAMILIES

__all__ = ["DUMMY_WEIGHTS", "FAMILIES", "Family", "build_family"]
