"""Kernel parameters of pods: which may be set, and that they are."""

from __future__ import annotations

import pytest

from twinstack.agent.sysctls import SysctlForbidden, normalized, sysctls_of
from twinstack.api.kinds import Pod
from twinstack.api.objects import view_of


def pod(*names: str, **spec) -> Pod:
    return view_of(Pod, {"spec": {"securityContext": {"sysctls": [{"name": name, "value": "1"} for name in names]}, **spec}})


def test_slashes_may_part_a_name():
    names = {
        "net.core.somaxconn": "net.core.somaxconn",
        "net/core/somaxconn": "net.core.somaxconn",
        "net/ipv4/conf/eth0.1/forwarding": "net.ipv4.conf.eth0/1.forwarding",
        "net.ipv4.conf.eth0/1.forwarding": "net.ipv4.conf.eth0/1.forwarding",
    }
    assert {name: normalized(name) for name in names} == names


def test_what_may_be_set_is_told_as_paths():
    assert sysctls_of(pod()) == ()
    assert sysctls_of(pod("net.ipv4.tcp_syncookies")) == (("net/ipv4/tcp_syncookies", "1"),)
    assert sysctls_of(pod("net.core.somaxconn", "net.ipv4.conf.all.forwarding"), ["net.core.somaxconn", "net.ipv4.conf.*"]) == (
        ("net/core/somaxconn", "1"), ("net/ipv4/conf/all/forwarding", "1"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "allowed", "reason"),
    [
        (pod("net.core.somaxconn"), [], "not allowlisted"),
        (pod("net.core.somaxconn"), ["net.core.other", "net.ipv4.*"], "not allowlisted"),
        (pod("kernel.msgmax"), ["kernel.*"], "none of a network namespace"),
        (pod("net.ipv4.tcp_syncookies", hostNetwork=True), [], "host net"),
    ],
)
def test_what_may_not_be_set(one, allowed, reason):
    with pytest.raises(SysctlForbidden, match=reason):
        sysctls_of(one, allowed)


@pytest.mark.kernel
@pytest.mark.slow
def test_a_pod_has_its_parameters_or_fails(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        sysctls = {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]}
        await w.create("set", restartPolicy="Never", securityContext=sysctls, container={"command": ["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]})
        await w.create("forbidden", securityContext={"sysctls": [{"name": "net.core.somaxconn", "value": "80"}]})
        await w.until_pod("set", lambda status: status.get("phase") == "Succeeded")
        assert (await w.logs("set"))[1] == "80\n"
        pod = await w.until_pod("forbidden", lambda status: status.get("phase") == "Failed")
        assert (pod["status"]["reason"], "somaxconn" in pod["status"]["message"]) == ("SysctlForbidden", True)
        for name in ("set", "forbidden"):
            await w.delete(name)
            await w.until_gone(name)
        await w.nothing_is_left()

    world(story)
