"""What Windows nodes can serve: the whole table, and what Services are told."""

from __future__ import annotations

from itertools import product

import pytest

from twinstack.api.kinds import Node, ServiceSpec
from twinstack.api.objects import view_of
from twinstack.net.family import FAMILIES
from twinstack.rules.windows import L2BRIDGE, MODE_LABEL, MODES, OS_LABEL, OVERLAY, SERVED, WindowsNode, facts_of, is_windows
from twinstack.rules.windows import problems_with_windows_node as problems_with_node
from twinstack.rules.windows import problems_with_windows_service as problems_with_service

F4, F6 = FAMILIES
BOTH = (F4, F6)


def node(*addresses: str, mode: str | None = None, cidrs: tuple[str, ...] = (), labels: dict[str, str] | None = None) -> Node:
    marks = {OS_LABEL: "windows", **({MODE_LABEL: mode} if mode is not None else {})} if labels is None else labels
    return view_of(
        Node,
        {
            "metadata": {"name": "w", "labels": marks},
            "spec": {"podCIDRs": list(cidrs)},
            "status": {"addresses": [{"type": "InternalIP", "address": one} for one in addresses]},
        },
    )


def test_every_combination_of_mode_and_families_has_a_verdict():
    assert set(SERVED) == set(product(MODES, [(F4,), (F6,), BOTH]))
    for (mode, families), served in SERVED.items():
        assert (list(problems_with_node(WindowsNode("w", families, mode))) == []) == served, (mode, families)


@pytest.mark.parametrize(
    "one, reasons",
    [
        pytest.param(node("192.0.2.1"), [], id="one family, the one that Windows serves"),
        pytest.param(node("192.0.2.1", "2001:db8::1"), [], id="both families on l2bridge"),
        pytest.param(node("192.0.2.1", "2001:db8::1", mode=L2BRIDGE), [], id="likewise, said so"),
        pytest.param(node("2001:db8::1"), ["IPv6Only"], id="IPv6 alone"),
        pytest.param(node("2001:db8::1", mode=OVERLAY), ["IPv6Only"], id="IPv6 alone on an overlay"),
        pytest.param(node("192.0.2.1", "2001:db8::1", mode=OVERLAY), ["OverlayDualStack"], id="both families on an overlay"),
        pytest.param(node("192.0.2.1", mode=OVERLAY, cidrs=("10.1.0.0/24", "fd00::/64")), ["OverlayDualStack"], id="pods of both families on an overlay"),
        pytest.param(node("192.0.2.1", mode="bridge"), ["UnknownNetworkMode"], id="a mode that nobody knows"),
        pytest.param(node(), [], id="not registered yet"),
    ],
)
def test_what_a_windows_node_is_told(one, reasons):
    assert [problem.reason for problem in problems_with_node(facts_of(one))] == reasons


def test_other_systems_are_nobodys_business_here():
    linux = node("2001:db8::1", labels={OS_LABEL: "linux", MODE_LABEL: OVERLAY})
    assert facts_of(linux) is None
    assert is_windows(view_of(Node, {"status": {"nodeInfo": {"operatingSystem": "windows"}}}))


DUAL, SIX_ONLY, OVER = WindowsNode("dual", BOTH, L2BRIDGE), WindowsNode("six", (F6,), L2BRIDGE), WindowsNode("over", BOTH, OVERLAY)
PORT = {"port": 80, "targetPort": 8080}


@pytest.mark.parametrize(
    "spec, nodes, paths",
    [
        pytest.param({"ipFamilies": ["IPv4", "IPv6"]}, [DUAL], [], id="both families on a node that serves both"),
        pytest.param({"ipFamilies": ["IPv4", "IPv6"]}, [DUAL, OVER], ["spec.ipFamilies"], id="an overlay serves it without the second"),
        pytest.param({"ipFamilies": ["IPv6"]}, [OVER], ["spec.ipFamilies"], id="an overlay cannot serve IPv6"),
        pytest.param({"ipFamilies": ["IPv4"]}, [OVER], [], id="an overlay serves IPv4"),
        pytest.param({"ipFamilies": ["IPv4"]}, [SIX_ONLY], ["spec.ipFamilies"], id="a node of IPv6 alone serves nothing"),
        pytest.param({"ipFamilies": ["IPv6"]}, [], [], id="no Windows nodes, no concern"),
        pytest.param({"ipFamilies": ["IPv4"], "type": "ExternalName"}, [SIX_ONLY], [], id="a name needs nobody to serve it"),
        pytest.param({"ipFamilies": ["IPv4"], "clusterIP": "None", "trafficDistribution": "PreferSameZone"}, [DUAL], [], id="a headless Service has no proxy"),
        pytest.param(
            {"ipFamilies": ["IPv4"], "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}},
            [DUAL],
            ["spec.sessionAffinityConfig.clientIP.timeoutSeconds"],
            id="a time for affinity",
        ),
        pytest.param(
            {"ipFamilies": ["IPv4"], "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"},
            [DUAL],
            ["spec.externalTrafficPolicy", "spec.internalTrafficPolicy"],
            id="local traffic",
        ),
        pytest.param({"ipFamilies": ["IPv4"], "ports": [PORT, {"port": 81, "targetPort": "http"}]}, [DUAL], ["spec.ports[1].targetPort"], id="a named port"),
        pytest.param({"ipFamilies": ["IPv4"], "trafficDistribution": "PreferSameZone"}, [DUAL], ["spec.trafficDistribution"], id="near endpoints"),
    ],
)
def test_what_a_service_is_told_of_windows_nodes(spec, nodes, paths):
    told = list(problems_with_service(view_of(ServiceSpec, spec), nodes))
    assert [one.partition(": ")[0] for one in told] == paths


def test_many_nodes_are_not_all_named():
    nodes = [SIX_ONLY._replace(name=f"w{i}") for i in range(9)]
    [told] = problems_with_service(view_of(ServiceSpec, {"ipFamilies": ["IPv4"]}), nodes)
    assert "w0, w1, w2 and 6 more" in told and "w3" not in told
