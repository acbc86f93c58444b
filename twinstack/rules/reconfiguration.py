"""When a cluster's families change under its Services: whom it concerns, and what it means for them.

Rule of this file: one Service and the cluster's present families in, a concern or none out.

Theory. Nothing is done to a Service when ``--service-cluster-ip-range`` changes over the same data: it keeps its families and its
addresses. A family that joins concerns nobody. A family that is gone concerns whoever has it: the law refuses what the
cluster has not (``rules/families.py``), so such a Service cannot be changed as it stands, with two exceptions, PreferDualStack that
nobody touches, and a headless Service without a selector, whose families are its author's own affair. A change of the order concerns one
Service alone: the cluster's own, whose endpoints are of the primary family, and which nobody changes after it was made.

Source: spec/api.md 3.3 ("cluster now v4 only"), 7.4, 7.6, and section 12, 8 and 31.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from twinstack.api.kinds import Service
from twinstack.net.family import Family
from twinstack.rules.families import PREFER, SINGLE, is_own_affair

NOT_CONFIGURED, OTHER_PRIMARY = "ServiceFamilyNotConfigured", "KubernetesServiceOfAnotherFamily"
OWN = ("default", "kubernetes")


class Concern(NamedTuple):
    """Why a Service does not fit the cluster any longer, and what would make it fit."""

    reason: str
    message: str


def concern_about(service: Service, cluster: Sequence[Family]) -> Concern | None:
    """What the cluster's present families, primary first, mean for a Service; None when they mean nothing."""
    spec, names = service.spec, [family.value for family in cluster]
    has = ", ".join(names)
    if spec.type == "ExternalName" or is_own_affair(spec) or not spec.ipFamilies:
        return None
    if (service.metadata.namespace, service.metadata.name) == OWN and spec.ipFamilies[0] != names[0]:
        message = (
            f"it is an {spec.ipFamilies[0]} Service and the cluster's primary family is {names[0]}: it has no endpoints until it is deleted, and made anew"
        )
        return Concern(OTHER_PRIMARY, message)
    lost = [family for family in spec.ipFamilies if family not in names]
    if not lost:
        return None
    if spec.ipFamilies[0] in lost:
        return Concern(NOT_CONFIGURED, f"its primary family {lost[0]} is gone (the cluster has {has}): it keeps its address and must be created anew")
    if spec.ipFamilyPolicy == PREFER:
        what = f"it stays {PREFER} with both addresses until its families or type are changed; {SINGLE} gives the second address back"
    else:
        what = f"it cannot be changed until spec.ipFamilyPolicy is {SINGLE}"
    return Concern(NOT_CONFIGURED, f"its second family {lost[0]} is gone (the cluster has {has}): {what}")
