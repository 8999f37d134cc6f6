"""All of them, by the name that commands and tests take."""

from __future__ import annotations

from families.family import Family
from families.gated_delta import GATED_DELTA_FAMILIES
from families.kimi_delta import KIMI_DELTA_FAMILIES
from families.other import OTHER_FAMILIES
from families.wrapped import WRAPPED_FAMILIES

FAMILIES: dict[str, Family] = {
    **OTHER_FAMILIES,
    **GATED_DELTA_FAMILIES,
    **KIMI_DELTA_FAMILIES,
    **WRAPPED_FAMILIES,
}
