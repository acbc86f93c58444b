"""Which pools are in force: of the file and of the ConfigMap, as both change, and when they are wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from twinstack.api.kinds import ConfigMap
from twinstack.api.objects import view_of
from twinstack.controllers.loadbalancers import CONFIG
from twinstack.lb import configuration
from twinstack.lb.configuration import InForce
from twinstack.lb.settings import Settings, SettingsError, bgp_password, checked
from twinstack.net.cidr import parse_address
from twinstack.rules.balancer_pools import BGP, LINK


class World:
    """One ConfigMap or none."""

    def __init__(self) -> None:
        self.config: ConfigMap | None = None

    def say(self, text: str | None, entry: str = "config.yaml") -> None:
        document = {"metadata": {"namespace": CONFIG.namespace, "name": CONFIG.name}, "data": {entry: text}}
        self.config = None if text is None else view_of(ConfigMap, document)

    def get(self, view, key):
        return self.config if key == CONFIG else None


def pool(name: str, more: str = "") -> str:
    return f"pools: [{{name: {name}, addresses: [192.0.2.0/30]{more}}}]"


def names(one: InForce) -> list[str]:
    return [pool.name for pool in one.current.pools]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pools.yaml"
    path.write_text(pool("file"))
    return path


def test_the_config_map_goes_before_the_file_and_what_is_wrong_changes_nothing(file: Path) -> None:
    world = World()
    one = InForce(Settings(config=str(file)), world)  # type: ignore[arg-type]
    assert names(one) == ["file"] and one.wrong == ""
    world.say(pool("map"))
    assert names(one) == ["map"]
    world.say("pools: 3")
    assert names(one) == ["map"] and "is refused: not a mapping" in one.wrong
    world.say(pool("map"), entry="other")
    assert names(one) == ["map"] and one.wrong.endswith("it has no entry config.yaml")
    world.say(None)
    assert names(one) == ["file"] and one.wrong == ""


@pytest.mark.slow
async def test_a_file_that_changes_is_read_again_and_kept_as_it_was_when_it_is_wrong(file: Path) -> None:
    one = InForce(Settings(config=str(file)), World())  # type: ignore[arg-type]
    news = asyncio.Event()
    one.subscribe(news.set)
    following = asyncio.create_task(one.follow_file())
    try:
        async with asyncio.timeout(30 * configuration.LOOK_SECONDS):
            for text, wanted, wrong in ((pool("a"), ["a"], ""), ("pools: 3", ["a"], "not a mapping"), (pool("long-name"), ["long-name"], "")):
                news.clear()
                file.write_text(text)
                await news.wait()
                assert names(one) == wanted and wrong in one.wrong and bool(one.wrong) is bool(wrong)
    finally:
        following.cancel()


def test_a_pool_says_how_it_is_announced_and_without_bird_that_is_refused_by_the_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(f"{{{pool('r', ', announce: bgp')}, peers: [{{peerAddress: 198.51.100.1, peerASN: 1, myASN: 2}}]}}")
    settings = Settings(config=str(file))
    assert checked(settings) is settings
    one = InForce(settings, World())  # type: ignore[arg-type]
    assert one.current.way_of(parse_address("192.0.2.1")) == BGP and one.current.way_of(parse_address("192.0.2.9")) == LINK
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("twinstack.kernel.bird._DIRECTORIES", "/nowhere")
    with pytest.raises(SettingsError, match="pool r is announced by BGP, but bird is not installed here; the package bird2 has it"):
        checked(settings)


@pytest.mark.parametrize(
    ("text", "right"),
    [("pa$s word!\n", True), ("", False), ("\n", False), ("a\nb", False), ('a"b', False), ("a\\b", False), ("ä", False), ("x" * 80, True), ("x" * 81, False)],
)
def test_a_password_is_read_from_its_file_when_it_can_be_one(tmp_path: Path, text: str, right: bool) -> None:
    path = tmp_path / "password"
    path.write_text(text)
    settings = Settings(bgp_password_file=str(path))
    if right:
        assert bgp_password(checked(settings)) == text.removesuffix("\n")
    else:
        with pytest.raises(SettingsError, match="a password is 1 to 80 printable ASCII characters"):
            checked(settings)
    with pytest.raises(SettingsError, match="cannot be read"):
        checked(Settings(bgp_password_file=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"run_dir": "x"}, "--run-dir=x is not an absolute path"),
        ({"run_dir": "/" + "x" * 100}, "at most 90 bytes"),
        ({"health_port": 70000}, "--health-port=70000 is not a port"),
        ({"health_address": "x"}, "--bind-address: "),
    ],
)
def test_other_flags_that_cannot_be_are_refused(flags, words) -> None:
    with pytest.raises(SettingsError, match=words):
        checked(Settings(**flags))
