"""Whatever is asked, in whatever order, over whatever restarts and reconfigurations: addresses and their records agree after every step.

The invariant (issue: "every clusterIP has exactly one IPAddress that points back; no two Services share one; nothing else is allocated"):

1. each address of each Service is recorded by the IPAddress of that name, whose parent is that Service;
2. no address stands in two Services;
3. each IPAddress that the server manages belongs to a Service that lists it;
4. what the server holds as taken, in both families, is what is recorded, or an address that a Service has and whose record somebody deleted;
5. each node port is one Service's, and what is held as taken is what Services have.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinstack.api.errors import APIError
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES

# Small, so that they get full; the same ranges in every order, so that one configuration meets another's Services.
SMALL4, SMALL6, MORE4 = "192.168.0.0/28", "fd00:10:96::/124", "192.168.9.0/29"
CONFIGURATIONS = (SMALL4, SMALL6, f"{SMALL4},{SMALL6}", f"{SMALL6},{SMALL4}", MORE4)
PORTS = (30000, 30007)
ADDRESSES = ("192.168.0.5", "192.168.0.6", "fd00:10:96::5", "FD00:10:96::6", "192.168.9.2", "None", "192.168.0.0")


class Died(Exception):
    """The server was killed while it wrote."""


def _canonical(text: str) -> str:
    return str(parse_address(text))


def disagreements(server: Any) -> list[str]:
    """What breaks the invariant; empty when it holds."""
    found: list[str] = []
    everything = {f"{one['metadata']['namespace']}/{one['metadata']['name']}": one["spec"] for one in server.cache.list(server.resource("services"))}
    services = {name: spec for name, spec in everything.items() if spec.get("type") != "ExternalName"}  # what a name spells out is none of its own
    records = {one["metadata"]["name"]: one for one in server.cache.list(server.resource("ipaddresses"))}
    held = Counter(_canonical(text) for spec in services.values() for text in spec.get("clusterIPs") or () if text != "None")
    found += [f"{address} stands in {count} Services" for address, count in held.items() if count > 1]
    missing = set()
    for name, spec in services.items():
        for text in spec.get("clusterIPs") or ():
            if text != "None":
                record = records.get(_canonical(text))
                parent = record and record["spec"]["parentRef"]
                if record is None and text in server.deleted_records:
                    missing.add(_canonical(text))
                elif not parent or f"{parent['namespace']}/{parent['name']}" != name:
                    found.append(f"{text} of {name} is recorded for {parent}")
    managed = {name for name, one in records.items() if one["metadata"].get("labels")}
    found += [f"{name} is recorded and nobody has it" for name in managed - set(held)]
    taken = {str(family.address(number)) for family in FAMILIES for number in server.context.addresses._taken[family]}
    found += [f"{address} is held as taken and is not, or the other way round" for address in taken ^ (set(records) | missing)]
    holding = [spec for spec in services.values() if spec.get("type") in ("NodePort", "LoadBalancer")]  # an ExternalName's are words
    ports = Counter(
        port for spec in holding for port in {one.get("nodePort", 0) for one in spec.get("ports") or ()} | {spec.get("healthCheckNodePort", 0)} if port
    )
    found += [f"port {port} is {count} Services'" for port, count in ports.items() if count > 1]
    found += [f"port {port} differs" for port in set(ports) ^ set(server.context.ports._pool.taken)]
    return found


SPEC = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
        "externalName": st.just("example.com"),
        "ipFamilyPolicy": st.sampled_from(["SingleStack", "PreferDualStack", "PreferDualStack", "RequireDualStack", None]),
        "ipFamilies": st.sampled_from([["IPv4"], ["IPv6"], ["IPv4", "IPv6"], ["IPv6", "IPv4"], None]),
        "clusterIP": st.sampled_from([*ADDRESSES, None]),
        "clusterIPs": st.sampled_from([["192.168.0.5", "fd00:10:96::5"], ["fd00:10:96::5"], None]),
        "externalTrafficPolicy": st.sampled_from(["Local", None]),
        "selector": st.sampled_from([{"app": "y"}, None]),
        "ports": st.sampled_from([[{"port": 80, "nodePort": 30001}], [{"name": "a", "port": 1}, {"name": "b", "port": 2}], [{"port": 0}]]),
    },
)
NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
STEP = st.one_of(
    st.tuples(st.just("create"), NAMES, SPEC),
    st.tuples(st.just("create"), NAMES, st.just({"ipFamilyPolicy": "PreferDualStack"})),
    st.tuples(st.just("put"), NAMES, SPEC),
    st.tuples(st.just("patch"), NAMES, SPEC),
    st.tuples(st.just("delete"), NAMES, st.none()),
    st.tuples(st.just("many"), st.none(), SPEC),
    st.tuples(st.just("restart"), st.sampled_from(CONFIGURATIONS), st.none()),
    st.tuples(st.just("killed"), st.sampled_from(["before it is durable", "after it is durable"]), SPEC),
    st.tuples(st.just("add range"), st.sampled_from([[MORE4], ["fd00:10:97::/124"], [MORE4, "fd00:10:97::/124"]]), st.none()),
    st.tuples(st.just("remove range"), st.none(), st.none()),
    st.tuples(st.just("block"), st.sampled_from(["192.168.0.7", "fd00:10:96::7"]), st.none()),
    st.tuples(st.just("delete record"), NAMES, st.none()),
    st.tuples(st.just("repair"), st.none(), st.none()),
)


class Play:
    """One cluster through its restarts."""

    def __init__(self, new_server: Any) -> None:
        self._new_server, self.server = new_server, None
        self.ranges = ""
        self.deleted: set[str] = set()

    async def start(self, ranges: str) -> None:
        """Start over what was durable when the last server ended."""
        options: dict[str, Any] = {"node_ports": PORTS}
        if self.server is not None:
            options["store"] = copy.copy(self.server.store)
            options["store"]._subscribers = []
        self.ranges = ranges
        self.server = await self._new_server(ranges, **options)
        advertised = "192.0.2.1" if ranges[0] == "1" else "2001:db8::1"
        assert await self.server.bootstrap(advertise_address=advertised).first_pass()
        self._after_repair()

    def _after_repair(self) -> None:
        """What was deleted is there again, unless no range hands it out any longer."""
        server = self.server
        lost = {
            text for text in self.deleted if server.get("ipaddresses", _canonical(text)) is None and not server.context.addresses.contains(parse_address(text))
        }
        self.deleted.clear()
        self.deleted |= lost
        server.deleted_records = self.deleted

    async def step(self, verb: str, what: Any, spec: Any) -> None:
        server = self.server
        with contextlib.suppress(APIError):  # refusals are answers; anything else is a bug
            if verb == "create":
                await server.service(what, **spec)
            elif verb == "put" and (stored := server.get("services", what)):
                whole = {**stored["spec"], **spec}
                await server.put("services", {**stored, "spec": {key: value for key, value in whole.items() if value is not None}})
            elif verb == "patch":
                await server.patch("services", what, {"spec": spec})
            elif verb == "delete":
                await server.delete("services", what)
            elif verb == "many":
                await asyncio.gather(*(server.service(name, **spec) for name in "abcde"), return_exceptions=True)
            elif verb == "add range":
                await server.post("servicecidrs", {"metadata": {"name": "more"}, "spec": {"cidrs": what}})
            elif verb == "remove range":
                await server.delete("servicecidrs", "more")
            elif verb == "block":
                await server.post("ipaddresses", {"metadata": {"name": what}, "spec": {"parentRef": {"resource": "things", "name": "x"}}})
            elif verb == "delete record" and (stored := server.get("services", what)):
                for text in stored["spec"].get("clusterIPs") or ():
                    if text != "None" and server.get("ipaddresses", _canonical(text)):
                        self.deleted.add(text)
                        await server.delete("ipaddresses", _canonical(text))
            elif verb == "repair":
                server.wait(120)
                await server.bootstrap().keep()
                await server.bootstrap().repair()
                self._after_repair()
        if verb == "restart":
            await self.start(what)
        elif verb == "killed":
            commit = server.store.commit

            async def dying(writes: Any) -> Any:
                if what == "after it is durable":
                    await commit(writes)
                raise Died

            server.store.commit = dying
            with contextlib.suppress(APIError, Died):
                await server.service("killed", **spec)
            del server.store.commit
            await self.start(self.ranges)


@pytest.mark.slow
@settings(max_examples=400)
@given(first=st.sampled_from(CONFIGURATIONS), steps=st.lists(STEP, min_size=4, max_size=20))
def test_no_sequence_of_requests_restarts_and_reconfigurations_loses_or_doubles_an_address(new_server: Any, first: str, steps: list[Any]) -> None:
    async def play() -> None:
        one = Play(new_server)
        await one.start(first)
        assert disagreements(one.server) == []
        for verb, what, spec in steps:
            await one.step(verb, what, spec)
            assert disagreements(one.server) == [], (verb, what, spec)

    asyncio.run(play())
