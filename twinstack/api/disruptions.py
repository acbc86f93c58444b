"""Views of what holds pods back from being taken away.

See ``api.kinds`` for what a view is.
"""

from __future__ import annotations

from twinstack.api.metadata import Condition, LabelSelector, Object, Time, View


class PodDisruptionBudgetSpec(View, frozen=True):
    """How many of which pods must stay, or may be away."""

    minAvailable: int | str | None = None
    maxUnavailable: int | str | None = None
    selector: LabelSelector | None = None
    unhealthyPodEvictionPolicy: str | None = None


class PodDisruptionBudgetStatus(View, frozen=True):
    """How many there are, and how many more may go; *disruptedPods* were let go, and have not gone yet."""

    observedGeneration: int = 0
    disruptedPods: dict[str, Time] | None = None
    disruptionsAllowed: int = 0
    currentHealthy: int = 0
    desiredHealthy: int = 0
    expectedPods: int = 0
    conditions: list[Condition] | None = None


class PodDisruptionBudget(Object, frozen=True):
    """What an eviction must leave of the pods that it selects."""

    spec: PodDisruptionBudgetSpec = PodDisruptionBudgetSpec()
    status: PodDisruptionBudgetStatus = PodDisruptionBudgetStatus()
