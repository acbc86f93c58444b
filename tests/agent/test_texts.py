"""Hosts files, resolvers, environments, node addresses and flags: texts and values."""

from __future__ import annotations

import pytest

from twinstack.agent.containers.images import Images
from twinstack.agent.environment import ConfigError, Facts, Sources, command_of, environment_of, expand, field_value, service_variables
from twinstack.agent.hostfiles import HostnameError, Resolver, full_name_of, host_network_hosts_text, hosts_text, parse_resolver, resolver_of
from twinstack.agent.making import ImageRefused, find_image, identity_of, problems_with
from twinstack.agent.node import NodeAddressError, host_ips_of, node_addresses
from twinstack.agent.routes import wanted_routes
from twinstack.agent.settings import SettingsError, parse_labels, parse_node_ips, parse_taints
from twinstack.api.kinds import Container, HostAlias, Node, ObjectMeta, Pod, PodSpec, Probe, Service
from twinstack.api.objects import view_of
from twinstack.dataplane import host
from twinstack.net.cidr import parse_address, parse_cidr

IPS = tuple(map(parse_address, ("10.244.1.5", "fd00:10:244:1::5")))


def test_a_hosts_file_has_a_line_for_each_address_of_the_pod():
    text = hosts_text(IPS, hostname="web-0", domain="db.default.svc.cluster.local", aliases=[HostAlias(ip="192.0.2.9", hostnames=["one", "two"])])
    lines = text.splitlines()
    assert lines[0] == "# Kubernetes-managed hosts file."
    assert "127.0.0.1\tlocalhost" in lines and "::1\tlocalhost ip6-localhost ip6-loopback" in lines
    assert lines[-5:-3] == [f"{ip}\tweb-0.db.default.svc.cluster.local\tweb-0" for ip in IPS]
    assert lines[-3:] == ["", "# Entries added by HostAliases.", "192.0.2.9\tone\ttwo"]
    assert host_network_hosts_text("127.0.0.1 me\n").endswith("\n127.0.0.1 me\n")


DNS = tuple(map(parse_address, ("10.96.0.10", "fd00:96::a")))
NODE = Resolver(("192.0.2.53",), ("example.com",), ("timeout:1",))


@pytest.mark.parametrize(
    ("spec", "dns", "node", "found"),
    [
        pytest.param(
            PodSpec(),
            DNS,
            NODE,
            Resolver(("10.96.0.10", "fd00:96::a"), ("ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"), ("ndots:5",)),
            id="ClusterFirst: the cluster's servers of both families",
        ),
        pytest.param(PodSpec(), (), NODE, NODE, id="without a cluster's server: the node's"),
        pytest.param(PodSpec(dnsPolicy="Default"), DNS, NODE, NODE, id="Default: the node's"),
        pytest.param(PodSpec(hostNetwork=True), DNS, NODE, NODE, id="in the node's network ClusterFirst means Default"),
        pytest.param(PodSpec(dnsPolicy="None", dnsConfig={"nameservers": ["::1"], "options": [{"name": "ndots", "value": "2"}]}), DNS, NODE,
                     Resolver(("::1",), (), ("ndots:2",)), id="None: only what the pod says"),
        pytest.param(PodSpec(dnsPolicy="Default"), DNS, None, Resolver(("192.0.2.1",), (".",)), id="no file on the node: a loopback for each address"),
    ],
)  # fmt: skip
def test_resolvers(spec, dns, node, found):
    result = resolver_of(spec, "ns", cluster_dns=dns, cluster_domain="cluster.local", node=node, node_ips=[parse_address("192.0.2.1")])
    assert result == (found if node is not None else Resolver(("127.0.0.1",), (".",)))


def test_host_network_with_cluster_first_with_host_net_asks_the_cluster():
    result = resolver_of(
        PodSpec(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"), "ns", cluster_dns=DNS, cluster_domain="cluster.local", node=NODE, node_ips=IPS
    )
    assert result.servers == ("10.96.0.10", "fd00:96::a")


def test_a_resolver_keeps_the_limits():
    text = Resolver(("1", "2", "3", "4"), tuple(f"d{i}" for i in range(40))).text()
    assert text.count("nameserver") == 3
    assert len(text.splitlines()[0].split()) == 33
    assert parse_resolver(Resolver(("::1",), ("a", "b"), ("ndots:5",)).text()) == Resolver(("::1",), ("a", "b"), ("ndots:5",))


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("$(A)-$(B)", "1-$(B)"), ("$$(A)", "$(A)"), ("$(A", "$(A"), ("$A", "$A"), ("$$$(A)", "$1")],
)
def test_references_are_expanded_where_they_are_known(text, expanded):
    assert expand(text, {"A": "1"}) == expanded


POD = Pod(metadata=ObjectMeta(name="p", namespace="ns", uid="u", labels={"app": "x"}, annotations={"a/b": "c"}), spec=PodSpec(serviceAccountName="sa"))
FACTS = Facts(("10.0.0.1", "fd00::1"), ("192.0.2.1", "2001:db8::1"), "node1")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"), ("metadata.namespace", "ns"), ("metadata.uid", "u"), ("metadata.labels['app']", "x"), ("metadata.annotations['a/b']", "c"),
        ("metadata.labels['no']", ""), ("metadata.labels", 'app="x"'), ("spec.nodeName", "node1"), ("spec.serviceAccountName", "sa"),
        ("status.podIP", "10.0.0.1"),
        ("status.podIPs", "10.0.0.1,fd00::1"), ("status.hostIP", "192.0.2.1"), ("status.hostIPs", "192.0.2.1,2001:db8::1"),
    ],
)  # fmt: skip
def test_the_downward_api(path, value):
    assert field_value(path, POD, FACTS) == value


def container(document):
    return view_of(Container, {"name": "c", "image": "twinstack.dev/host", **document})


def test_an_environment_is_made_of_values_fields_maps_and_services():
    one = container(
        {
            "env": [
                {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                {"name": "BOTH", "value": "<$(IPS)> $(KEY)"},
                {"name": "KEY2", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
                {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
            ],
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}],
            "command": ["run", "$(BOTH)"],
        }
    )
    variables = environment_of(
        one,
        POD,
        FACTS,
        services={"KUBERNETES_SERVICE_HOST": "10.96.0.1"},
        sources=Sources({("configmap", "cm"): {"k": "v"}, ("secret", "s"): None}),
        hostname="p",
    )
    assert variables["BOTH"] == "<10.0.0.1,fd00::1> $(KEY)"
    assert (variables["P_k"], variables["KEY2"], variables["KUBERNETES_SERVICE_HOST"]) == ("v", "v", "10.96.0.1")
    assert "NONE" not in variables
    assert command_of(one, variables) == ["run", "<10.0.0.1,fd00::1> $(KEY)"]


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match='configmap "cm" not found'):
        environment_of(container({"envFrom": [{"configMapRef": {"name": "cm"}}]}), POD, FACTS, services={}, sources=Sources(), hostname="p")
    with pytest.raises(ConfigError, match="neither command nor args"):
        command_of(container({}), {})
    nul = Sources({("configmap", "cm"): {"k": "a\0b"}})
    with pytest.raises(ConfigError, match="env k has a NUL byte"):
        environment_of(container({"envFrom": [{"configMapRef": {"name": "cm"}}]}), POD, FACTS, services={}, sources=nul, hostname="p")
    with pytest.raises(ConfigError, match="NUL byte in its command or args"):
        command_of(container({"command": ["echo", "a\0b"]}), {})


def test_labels_and_annotations_are_quoted_in_files_as_go_quotes():
    pod = view_of(Pod, {"metadata": {"annotations": {"a": 'tab\t "q" \\ \x01\x7f → \u00a0\u2028 \U0001f600\r\n'}}})
    assert field_value("metadata.annotations", pod, FACTS) == 'a="tab\\t \\"q\\" \\\\ \\x01\\x7f → \\u00a0\\u2028 \U0001f600\\r\\n"'


def test_services_tell_their_primary_address_in_brackets_where_needed():
    service = view_of(Service, {"metadata": {"name": "my-db"}, "spec": {"clusterIP": "fd00::9", "ports": [{"name": "sql", "port": 5432}]}})
    headless = view_of(Service, {"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}})
    variables = service_variables([service, headless])
    assert variables["MY_DB_SERVICE_HOST"] == "fd00::9"
    assert variables["MY_DB_PORT"] == "tcp://[fd00::9]:5432"
    assert variables["MY_DB_SERVICE_PORT_SQL"] == "5432"
    assert not any(name.startswith("H_") for name in variables)


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("", ()), ("192.0.2.1", ("192.0.2.1",)), ("2001:db8::1 , 192.0.2.1", ("2001:db8::1", "192.0.2.1")), ("blah,10.0.0.0/8", ()), ("::", ("::",)),
        ("blah,192.0.2.1", ("192.0.2.1",)), ("192.0.02.001", ("192.0.2.1",)), ("::ffff:192.0.2.1,2001:DB8::0:1", ("192.0.2.1", "2001:db8::1")),
        ("fe80::1%eth0,192.0.2.256", ()),
    ],
)  # fmt: skip
def test_node_ips_that_are_accepted(text, addresses):
    assert tuple(map(str, parse_node_ips(text)[0])) == addresses


@pytest.mark.parametrize("text", ["192.0.2.1,192.0.2.2", "192.0.2.1,::ffff:192.0.2.2", "192.0.2.1,2001:db8::1,192.0.2.3", "0.0.0.0,::", "192.0.2.1,::"])
def test_node_ips_that_are_refused(text):
    with pytest.raises(SettingsError, match="--node-ip"):
        parse_node_ips(text)


PRESENT = [
    host.Address("lo", parse_address("127.0.0.1"), 8, "host"),
    host.Address("eth0", parse_address("192.0.2.1"), 24),
    host.Address("eth0", parse_address("fe80::2"), 64, "link"),
    host.Address("eth0", parse_address("2001:db8::1"), 64),
]
ROUTES = [host.Route(parse_cidr("0.0.0.0/0"), "eth0", parse_address("192.0.2.254")), host.Route(parse_cidr("::/0"), "eth0", parse_address("fe80::1"))]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("", ["192.0.2.1"]), ("0.0.0.0", ["192.0.2.1"]), ("::", ["2001:db8::1"]), ("2001:db8::1,192.0.2.1", ["2001:db8::1", "192.0.2.1"]),
        ("192.0.2.1", ["192.0.2.1"]),
    ],
)  # fmt: skip
def test_a_node_finds_its_addresses(asked, found):
    assert list(map(str, node_addresses(parse_node_ips(asked)[0], "node1", PRESENT, ROUTES))) == found


@pytest.mark.parametrize(
    ("asked", "named", "found"),
    [
        pytest.param("", ["2001:db8::1"], "2001:db8::1", id="what the node's name stands for comes before the default route"),
        pytest.param("", ["2001:db8::1", "192.0.2.1"], "192.0.2.1", id="the preferred family first"),
        pytest.param("::", ["192.0.2.1", "2001:db8::1"], "2001:db8::1", id="which --node-ip may say"),
        pytest.param("", ["127.0.1.1", "198.51.100.7"], "192.0.2.1", id="but no loopback, and nothing that is another host's"),
        pytest.param("2001:db8::1", ["192.0.2.1"], "2001:db8::1", id="an explicit address wins"),
    ],
)
def test_a_node_whose_name_is_known_finds_its_address_by_it(asked, named, found):
    addresses = node_addresses(parse_node_ips(asked)[0], "node1", PRESENT, ROUTES, named=[parse_address(one) for one in named])
    assert list(map(str, addresses)) == [found]


@pytest.mark.parametrize("asked", ["127.0.0.1", "fe80::2", "192.0.2.77", "ff02::1"])
def test_an_address_that_no_node_can_have_is_refused(asked):
    with pytest.raises(NodeAddressError, match="failed to validate nodeIP"):
        node_addresses(parse_node_ips(asked)[0], "node1", PRESENT, ROUTES)


def node(name, addresses, cidrs):
    return view_of(
        Node, {"metadata": {"name": name}, "spec": {"podCIDRs": cidrs}, "status": {"addresses": [{"type": "InternalIP", "address": one} for one in addresses]}}
    )


def test_pods_of_other_nodes_are_routed_through_the_node_of_their_family():
    nodes = [
        node("me", ["192.0.2.1", "2001:db8::1"], ["10.0.0.0/24"]),
        node("two", ["2001:db8::2", "192.0.2.2"], ["10.0.2.0/24", "fd00:2::/64"]),
        node("six", ["2001:db8::3"], ["10.0.3.0/24", "fd00:3::/64"]),
        node("new", [], []),
    ]
    assert [(str(route.destination), str(route.gateway)) for route in wanted_routes(nodes, "me")] == [
        ("10.0.2.0/24", "192.0.2.2"),
        ("fd00:2::/64", "2001:db8::2"),
        ("fd00:3::/64", "2001:db8::3"),
    ]
    assert host_ips_of(nodes[1]) == ("2001:db8::2", "192.0.2.2")


def test_an_image_decides_whether_a_container_can_run(tmp_path):
    images = Images(tmp_path)
    for image in ("twinstack.dev/host", "twinstack.dev/host:v1", "twinstack.dev/host:v1@sha256:abc"):
        assert find_image(container({"image": image}), images) is None
    for image, policy, reason in (
        ("nginx", "Never", "ErrImageNeverPull"),
        ("nginx:1", "IfNotPresent", "ErrImagePull"),
        ("nginx", "Always", "ErrImagePull"),
        ("twinstack.dev/hosts", "Never", "ErrImageNeverPull"),
        ("registry:5000/twinstack.dev/host", "Never", "ErrImageNeverPull"),
        ("", "Never", "InvalidImageName"),
        ("No Image", "Never", "InvalidImageName"),
    ):
        with pytest.raises(ImageRefused) as caught:
            find_image(container({"image": image, "imagePullPolicy": policy}), images)
        assert caught.value.reason == reason


def test_a_pod_may_be_called_by_its_full_name_if_the_kernel_can_hold_it():
    def called(**spec):
        return full_name_of("web", "ns", view_of(Pod, {"spec": spec}).spec, "cluster.local")

    assert called(subdomain="db") == called(setHostnameAsFQDN=True) == "web"
    assert called(subdomain="db", setHostnameAsFQDN=True) == "web.db.ns.svc.cluster.local"
    with pytest.raises(HostnameError, match="may have 64"):
        called(subdomain="d" * 50, setHostnameAsFQDN=True)


def test_what_a_node_cannot_give_is_refused_by_name():
    def wrong(spec):
        return list(problems_with(view_of(Pod, {"spec": spec})))

    assert not wrong({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]})
    assert "nfs" in wrong({"containers": [], "volumes": [{"name": "v", "nfs": {"server": "x"}}]})[0]
    assert "'much' is not an amount" in wrong({"containers": [{"name": "c", "resources": {"limits": {"memory": "much"}}}]})[0]
    with pytest.raises(ConfigError, match="runAsNonRoot"):
        identity_of(view_of(Pod, {"spec": {"securityContext": {"runAsNonRoot": True}}}), container({}))


def test_labels_and_taints_of_flags():
    assert parse_labels("a=b, c=") == (("a", "b"), ("c", ""))
    assert [(one.key, one.value, one.effect) for one in parse_taints("k=v:NoSchedule,x:NoExecute")] == [("k", "v", "NoSchedule"), ("x", "", "NoExecute")]
    for wrong in ("k", "k=v:Never"):
        with pytest.raises(SettingsError):
            parse_taints(wrong)
    assert Probe().periodSeconds == 10
