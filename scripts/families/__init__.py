"""Small models of every hybrid family that SGLang caches, with random weights."""

from families.build import DUMMY_WEIGHTS, build_family
from families.family import Family
from families.table import FAMILIES

__all__ = ["DUMMY_WEIGHTS", "FAMILIES", "Family", "build_family"]
