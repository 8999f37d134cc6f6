"""Settings that may change on a running server, in the form of ``/set_internal_state``."""

from __future__ import annotations

from sglang_marconi.settings.schema import Given, SettingsError, merge_settings

POLICY, ALPHA = "marconi_policy", "marconi_alpha"

POLICIES = ("auto", "marconi")
"""By the number that stands for it in a request."""

_CHANGEABLE = ("policy", "alpha")


def update_of(given: Given) -> dict[str, float]:
    """What a request to change these settings says.

    Raises:
        SettingsError: a setting is none, or none of those, or has a value that is not allowed.
    """
    for key in given.values:
        if key not in _CHANGEABLE:
            raise SettingsError(
                f"{given.source}: {key!r} cannot change while a server runs; "
                f"{' and '.join(_CHANGEABLE)} can"
            )
    values = dict(given.values)
    if "alpha" in values:
        # An alpha is the paper's policy's.
        values.setdefault("policy", "marconi")
    settings = merge_settings([Given(given.source, values)]).settings
    if settings.alpha is not None:
        return {ALPHA: settings.alpha}
    return {POLICY: POLICIES.index(settings.policy)}
