from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api import cni
from twinstack.api.cni import Attachment, CNIError
from twinstack.cni.ipam import Store

A, B, C = (Attachment(name, "eth0") for name in "abc")


def store(place: Path, *sets: list[dict[str, str]], **more: Any) -> Store:
    ranges = list(sets) or [[{"subnet": "10.7.1.0/29"}], [{"subnet": "fd07:1::/64"}]]
    document = {"cniVersion": "1.1.0", "name": "net", "ipam": {"ranges": ranges, "dataDir": str(place)}, **more}
    return Store(cni.parse_config(json.dumps(document).encode()))


def texts(given_: list[cni.Given]) -> list[str]:
    return [str(one.address) for one in given_]


def files(place: Path) -> set[str]:
    return {name for name in os.listdir(place / "net") if name != "lock" and not name.startswith("last")}


def test_one_address_of_each_set_in_their_order(tmp_path: Path) -> None:
    assert texts(store(tmp_path).take(A)) == ["10.7.1.1", "fd07:1::1"]
    assert texts(store(tmp_path).take(B)) == ["10.7.1.2", "fd07:1::2"]
    assert {str(address) for address in store(tmp_path).has(B)} == {"10.7.1.2", "fd07:1::2"}


def test_a_freed_address_rests_while_others_are_free(tmp_path: Path) -> None:
    store(tmp_path).take(A)
    store(tmp_path).give(A)
    assert texts(store(tmp_path).take(B)) == ["10.7.1.2", "fd07:1::2"]


def test_the_search_begins_anew_at_the_end_of_the_range(tmp_path: Path) -> None:
    for name in "abcdef":
        store(tmp_path).take(Attachment(name, "eth0"))
    store(tmp_path).give(B)
    assert texts(store(tmp_path).take(Attachment("g", "eth0"))) == ["10.7.1.2", "fd07:1::7"]


def test_when_one_family_is_used_up_the_other_gives_nothing_either(tmp_path: Path) -> None:
    kept = store(tmp_path, [{"subnet": "fd07:1::/64"}], [{"subnet": "10.7.1.0/30"}])
    kept.take(A)
    kept.take(B)
    before = files(tmp_path)
    with pytest.raises(CNIError) as caught:
        kept.take(C)
    assert caught.value.code == cni.NO_ADDRESS
    assert "10.7.1.1-10.7.1.2" in str(caught.value)
    assert files(tmp_path) == before


def test_a_set_with_several_ranges_goes_on_with_the_next(tmp_path: Path) -> None:
    kept = store(tmp_path, [{"subnet": "10.7.1.0/30"}, {"subnet": "10.7.2.0/30"}])
    assert [texts(kept.take(Attachment(name, "eth0")))[0] for name in "abcd"] == ["10.7.1.1", "10.7.1.2", "10.7.2.1", "10.7.2.2"]


def test_a_gateway_is_not_given_out(tmp_path: Path) -> None:
    kept = store(tmp_path, [{"subnet": "10.7.1.0/29", "gateway": "10.7.1.1"}])
    assert texts(kept.take(A)) == ["10.7.1.2"]


def test_an_address_asked_for_is_given_and_refused_when_in_use_or_of_no_range(tmp_path: Path) -> None:
    asked = store(tmp_path, runtimeConfig={"ips": ["fd07:1::99"]})
    assert texts(asked.take(A)) == ["10.7.1.1", "fd07:1::99"]
    before = files(tmp_path)
    with pytest.raises(CNIError, match="in use"):
        asked.take(B)
    with pytest.raises(CNIError, match="in no range"):
        store(tmp_path, runtimeConfig={"ips": ["192.0.2.1"]}).take(B)
    assert files(tmp_path) == before


def test_the_same_attachment_twice_is_the_runtimes_error(tmp_path: Path) -> None:
    store(tmp_path).take(A)
    with pytest.raises(CNIError) as caught:
        store(tmp_path).take(A)
    assert caught.value.code == cni.DUPLICATE
    store(tmp_path).take(Attachment("a", "eth1"))


def test_giving_back_succeeds_twice_and_before_anything_was_given(tmp_path: Path) -> None:
    store(tmp_path).give(A)
    store(tmp_path).take(A)
    store(tmp_path).take(B)
    for _ in range(2):
        store(tmp_path).give(A)
    assert files(tmp_path) == {"10.7.1.2", "fd07:1::2"}


def test_the_files_are_those_of_host_local_and_what_it_left_is_respected(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "10.7.1.1").write_text("old\r\neth0")
    (tmp_path / "net" / "10.7.1.2").write_text("older")
    (tmp_path / "net" / "last_reserved_ip.0").write_text("10.7.1.2")
    assert texts(store(tmp_path).take(A)) == ["10.7.1.3", "fd07:1::1"]
    assert (tmp_path / "net" / "fd07:1::1").read_bytes() == b"a\r\neth0"
    store(tmp_path).give(Attachment("old", "eth0"))
    store(tmp_path).give(Attachment("older", "eth0"))
    assert files(tmp_path) == {"10.7.1.3", "fd07:1::1"}


def test_what_a_crash_left_half_written_is_no_record(tmp_path: Path) -> None:
    store(tmp_path).take(A)
    (tmp_path / "net" / ".draft").write_text("b\r\n")
    (tmp_path / "net" / "last_reserved_ip.0").write_text("")
    assert texts(store(tmp_path).take(B)) == ["10.7.1.2", "fd07:1::2"]


def test_an_address_left_by_a_crash_between_two_families_goes_with_its_container(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "10.7.1.1").write_text("a\r\neth0")
    store(tmp_path).give(A)
    assert files(tmp_path) == set()


def test_two_at_once_never_get_the_same(tmp_path: Path) -> None:
    got: list[str] = []
    wide = [[{"subnet": "10.7.0.0/16"}], [{"subnet": "fd07:1::/64"}]]

    def work(number: int) -> None:
        for i in range(10):
            got.extend(texts(store(tmp_path, *wide).take(Attachment(f"c{number}-{i}", "eth0"))))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == len(set(got)) == 80


def test_a_directory_that_cannot_be_made_is_an_io_failure(tmp_path: Path) -> None:
    (tmp_path / "net").write_text("a file in the way")
    with pytest.raises(CNIError) as caught:
        store(tmp_path).take(A)
    assert caught.value.code == cni.IO_FAILURE


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=25))
def test_no_address_is_given_twice_and_all_come_back(steps: list[tuple[bool, int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        kept, held = store(Path(place)), {}
        for taking, number in steps:
            who = Attachment(f"c{number}", "eth0")
            if not taking:
                kept.give(who)
                held.pop(who, None)
            elif who not in held and len(held) < 6:
                held[who] = texts(kept.take(who))
            every = [address for addresses in held.values() for address in addresses]
            assert len(every) == len(set(every))
            if os.path.isdir(os.path.join(place, "net")):
                assert files(Path(place)) == set(every)
