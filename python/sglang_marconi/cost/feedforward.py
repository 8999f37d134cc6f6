"""Feed-forward layers: a dense MLP, and a mixture of experts."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_marconi.cost.layer import LayerCost


@dataclass(frozen=True, slots=True)
class MLP(LayerCost):
    """Up and down projection, with a third of the same size where ``gated`` (SwiGLU).

    Gated linear units: arXiv 2002.05202.
    """

    hidden: int
    intermediate: int
    gated: bool = True

    def weights(self, tp: int) -> float:
        return _mlp_weights(self.hidden, self.intermediate, self.gated) / tp


@dataclass(frozen=True, slots=True)
class MixtureOfExperts(LayerCost):
    """``experts`` MLPs of which each token takes ``active``, and the router that chooses.

    ``shared_intermediate`` is the total width of the experts every token takes. With a
    ``latent`` width the routed experts work in a space of that width, between a down-
    and an up-projection (latent MoE). Router and latent projections are replicated on
    every rank; the experts' work is divided over the ranks, whether each expert is split
    or whole experts are dealt out. The one-column gate some models put on their shared
    expert is not counted. Structure: DeepSeekMoE, arXiv 2401.06066, section 3.
    """

    hidden: int
    intermediate: int
    experts: int
    active: int
    shared_intermediate: int = 0
    gated: bool = True
    latent: int | None = None
    router: int | None = None
    reused: bool = False

    def weights(self, tp: int) -> float:
        return self._weights(self.active, tp)

    def total_weights(self) -> float:
        if self.reused:
            return float(_mlp_weights(self.hidden, self.shared_intermediate, self.gated))
        return self._weights(self.experts, tp=1)

    def _weights(self, experts: int, tp: int) -> float:
        width = self.hidden if self.latent is None else self.latent
        routed = experts * _mlp_weights(width, self.intermediate, self.gated)
        shared = _mlp_weights(self.hidden, self.shared_intermediate, self.gated)
        replicated = self.hidden * self.experts if self.router is None else self.router
        if self.latent is not None:
            replicated += 2 * self.hidden * self.latent
        return replicated + (routed + shared) / tp


def _mlp_weights(hidden: int, intermediate: int, gated: bool) -> int:
    return (3 if gated else 2) * hidden * intermediate
