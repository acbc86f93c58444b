"""Who lives, judged from what was seen and when."""

from __future__ import annotations

from twinstack.lb.members import Members

LEASE = 2.0


def members(*others: str) -> Members:
    """One that has been at work for some time, and has just heard from all."""
    one = Members("me", lease_seconds=LEASE)
    for node in ("me", *others):
        one.observe(node, "first", -10)
    one.begin()
    for tenth in range(-35, 1, 5):
        for node in ("me", *others):
            one.observe(node, str(tenth / 10), tenth / 10)
    return one


def hear(one: Members, node: str, first: float, last: float) -> None:
    """Renewals twice a second."""
    moment = first
    while moment <= last:
        one.observe(node, f"{node} {moment}", moment)
        moment += 0.5


def test_who_is_silent_for_a_lease_is_dead_until_it_is_heard_again() -> None:
    one = members("a", "b")
    hear(one, "a", 0.5, 1.5)
    hear(one, "me", 0.5, 1.5)
    assert not one.judge(1.99) and one.living == {"me", "a", "b"}
    assert one.judge(2.0) and one.living == {"me", "a"}
    assert one.patience(2.0) == 1.5, "when a's own lease ends"
    assert one.observe("b", "again", 2.5) and one.living == {"me", "a", "b"}


def test_who_gives_its_lease_up_is_gone_at_once() -> None:
    one = members("a")
    assert one.observe("a", None, 0.1) and one.living == {"me"}
    assert not one.observe("a", None, 0.2)


def test_while_we_are_deaf_nobody_is_judged_and_afterwards_all_get_some_time() -> None:
    one = members("a", "b")
    assert not one.judge(60.0) and one.living == {"me", "a", "b"} and one.patience(60.0) is None
    assert one.observe("me", "back", 61.0), "that we are back is news"
    hear(one, "me", 61.5, 62.5)
    hear(one, "a", 61.5, 63.0)
    assert not one.judge(62.9)
    hear(one, "me", 63.0, 63.0)
    assert one.judge(63.0) and one.living == {"me", "a"}


def test_when_the_api_server_stops_nobody_is_judged_whoever_spoke_first() -> None:
    """All fall silent within one interval of renewals; who spoke last must not bury the others while its own Lease still stands."""
    one = members("a")
    for moment in (0.5, 1.0, 1.5):
        one.observe("a", f"a {moment}", moment - 0.4)
        one.observe("me", f"me {moment}", moment)
    for moment in (3.1, 3.2, 3.4):
        assert not one.judge(moment)
    assert one.living == {"me", "a"} and one.patience(3.3) is None
    one.observe("me", "y", 3.45)  # it is back before our own lease is over, and we are the first
    assert not one.judge(3.46)
    one.observe("a", "y", 3.5)
    assert not one.judge(4.45) and one.living == {"me", "a"}


def test_where_renewals_are_slow_a_silence_must_be_longer() -> None:
    one = members("a")
    for moment in (1.7, 3.4):
        one.observe("me", str(moment), moment)
        assert not one.judge(moment)
    one.observe("me", "third", 5.1)
    assert one.judge(5.1)


def test_what_was_seen_before_is_no_renewal() -> None:
    one = members("a")
    hear(one, "me", 0.5, 1.5)
    assert not one.observe("a", "0.0", 1.5), "a list that is read again"
    assert one.judge(2.0) and one.living == {"me"}


def test_while_there_is_nothing_to_answer_for_nobody_is_judged() -> None:
    one = members("a")
    one.rest()
    hear(one, "me", 0.5, 9.5)
    assert not one.judge(9.5) and one.patience(9.5) is None
    one.begin()
    hear(one, "me", 10.0, 11.5)
    assert not one.judge(11.5), "they have had no time to renew"
    hear(one, "me", 12.0, 12.0)
    assert one.judge(12.1) and one.living == {"me"}


def test_a_node_whose_own_lease_was_never_seen_does_not_count_itself() -> None:
    one = Members("me", lease_seconds=LEASE)
    one.observe("a", "x", 0.0)
    assert one.living == {"a"}
