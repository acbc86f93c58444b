"""Which of the nodes that can run a pod is best.

Rule of this file: a pod, the places that will do and the whole scene in; the best one out.

Theory. Each view of the matter gives a place 0 to 100 points, and has a weight, as upstream's default profile has them: room left (least
allocated) and evenly used 1 each, node affinity, company and spread 2 each, taints that dissuade 3. Of equals, the one with the fewest pods is
taken, then the first by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from twinstack.api.kinds import Pod
from twinstack.rules.affinity import company, node_preference
from twinstack.rules.requests import CPU, MEMORY, Amounts, burden_of
from twinstack.rules.scene import Place, Scene
from twinstack.rules.spreading import unevenness
from twinstack.rules.taints import disliked

_MOST = 100.0


def best_place(pod: Pod, places: Sequence[Place], scene: Scene, alike: Mapping[str, int]) -> Place:
    """The place for the pod among those that will do; *alike* says on which nodes how many pods of the same kind stand."""
    if len(places) == 1:
        return places[0]
    asked, crowd, near = burden_of(pod), unevenness(pod, scene, alike), company(pod, scene)
    views = [
        (3.0, _fewer([float(disliked(pod.spec.tolerations, place.node)) for place in places])),
        (2.0, _more([float(node_preference(pod, place.node)) for place in places])),
        (2.0, _between([float(near(place)) for place in places])),
        (2.0, _fewer([crowd(place) for place in places])),
        (1.0, [_room_left(asked, place) for place in places]),
        (1.0, [_evenness(asked, place) for place in places]),
    ]
    points = [sum(weight * values[number] for weight, values in views) for number in range(len(places))]
    order = sorted(range(len(places)), key=lambda number: (-round(points[number], 6), len(places[number].pods), places[number].name))
    return places[order[0]]


def _more(values: Sequence[float]) -> list[float]:
    """Points in proportion."""
    most = max(values)
    return [value / most * _MOST if most > 0 else 0.0 for value in values]


def _fewer(values: Sequence[float]) -> list[float]:
    """The fewer, the more points."""
    most = max(values)
    return [(most - value) / most * _MOST if most > 0 else _MOST for value in values]


def _between(values: Sequence[float]) -> list[float]:
    """Points from the least to the most, which may be negative."""
    least, most = min(values), max(values)
    return [(value - least) / (most - least) * _MOST if most > least else 0.0 for value in values]


def _shares(asked: Amounts, place: Place) -> Iterable[float]:
    for name in (CPU, MEMORY):
        if place.allocatable.get(name):
            yield min(1.0, (place.burden[name] + asked.get(name, 0)) / place.allocatable[name])


def _room_left(asked: Amounts, place: Place) -> float:
    shares = list(_shares(asked, place))
    return sum(1.0 - share for share in shares) / len(shares) * _MOST if shares else 0.0


def _evenness(asked: Amounts, place: Place) -> float:
    shares = list(_shares(asked, place))
    return (1.0 - abs(shares[0] - shares[1]) / 2) * _MOST if len(shares) > 1 else _MOST  # the standard deviation of two
