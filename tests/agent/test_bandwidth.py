"""How fast a pod may be: its annotations, and what the ends of its link are held to."""

from __future__ import annotations

import pytest

from twinstack.agent.sandboxes import bandwidth_of
from twinstack.api import cni
from twinstack.api.kinds import Event, Pod
from twinstack.api.objects import view_of
from twinstack.api.resources import resource_of
from twinstack.kernel.shaping import ShapingNetlink

EVENTS = resource_of(Event)
IN, OUT = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"


def wanted(**annotations: str) -> dict[str, int]:
    names = {"ingress": IN, "egress": OUT}
    document = {"metadata": {"name": "p", "annotations": {names[way]: text for way, text in annotations.items()}}, "spec": {"containers": []}}
    return bandwidth_of(view_of(Pod, document))


def test_annotations_are_quantities_of_bits_a_second() -> None:
    assert wanted() == {}
    assert wanted(ingress="10M") == {"ingressRate": 10_000_000, "ingressBurst": 1 << 20}
    assert wanted(ingress="1Gi", egress="1k") == {"ingressRate": 2**30, "ingressBurst": 2**30 // 10, "egressRate": 1000, "egressBurst": 1 << 20}
    assert wanted(egress="1P")["egressBurst"] == 2**32 - 1


@pytest.mark.parametrize("text", ["fast", "999", "1001P", "-5M", "0"])
def test_an_annotation_that_means_nothing_is_told(text: str) -> None:
    with pytest.raises(cni.CNIError, match=r"kubernetes\.io/egress-bandwidth") as caught:
        wanted(egress=text)
    assert caught.value.code == cni.BAD_CONFIG


@pytest.mark.kernel
@pytest.mark.slow
def test_a_pod_is_held_to_its_annotations_and_one_that_means_nothing_waits(world) -> None:
    async def story(w) -> None:
        await w.give_pod_cidrs()
        await w.create("slow", annotations={IN: "8M", OUT: "16M"})
        await w.create("odd", annotations={IN: "fast"})
        pod = await w.until_pod("slow", lambda status: status.get("phase") == "Running")
        (netns,) = [path for path in w.netns_dir.iterdir() if path.name == pod["metadata"]["uid"]]
        with ShapingNetlink(str(netns)) as inside, ShapingNetlink() as node:
            assert inside.rate("eth0") == 2_000_000
            assert sorted(node.rate(link.name) for link in node.links() if link.name.startswith("ts")) == [1_000_000]

        async def told():
            events = (await w.client.list(EVENTS))["items"]
            return any(one["reason"] == "FailedCreatePodSandBox" and "'fast' is no quantity" in one["message"] for one in events)

        await w.until(told)
        for name in ("slow", "odd"):
            await w.delete(name, grace_period_seconds=0)
            await w.until_gone(name)
        await w.nothing_is_left()

    world(story)
