"""Who lives, judged from what was seen and when."""

from __future__ import annotations

from twinstack.lb.members import Members

LEASE = 2.0


def members(*others: str, now: float = 0.0) -> Members:
    """One that has been at work for some time."""
    one = Members("me", lease_seconds=LEASE)
    for node in ("me", *others):
        one.observe(node, "-1", now - 10)
    one.begin(now - 5)
    for moment in (now - 3, now - 1.5, now):
        for node in ("me", *others):
            one.observe(node, str(moment), moment)
    return one


def test_who_is_silent_for_a_lease_is_dead_until_it_is_heard_again() -> None:
    one = members("a", "b")
    one.observe("a", "x", 1.0)
    one.observe("me", "x", 1.0)
    assert not one.judge(1.99) and one.living == {"me", "a", "b"}
    assert one.judge(2.0) and one.living == {"me", "a"}
    assert one.patience(2.0) == 1.0, "when a's own lease ends"
    assert one.observe("b", "y", 2.5) and one.living == {"me", "a", "b"}


def test_who_gives_its_lease_up_is_gone_at_once() -> None:
    one = members("a")
    assert one.observe("a", None, 0.1) and one.living == {"me"}
    assert not one.observe("a", None, 0.2)


def test_while_we_are_deaf_nobody_is_judged_and_afterwards_all_get_a_whole_lease() -> None:
    one = members("a", "b")
    assert not one.judge(60.0) and one.living == {"me", "a", "b"} and one.patience(60.0) is None
    assert one.observe("me", "back", 61.0), "that we are back is news"
    assert not one.judge(62.9)
    one.observe("a", "back", 61.5)
    one.observe("me", "more", 62.5)
    assert one.judge(63.0) and one.living == {"me", "a"}


def test_what_was_seen_before_is_no_renewal() -> None:
    one = members("a")
    one.observe("me", "x", 1.5)
    assert not one.observe("a", "0.0", 1.5), "a list that is read again"
    assert one.judge(2.0) and one.living == {"me"}


def test_while_there_is_nothing_to_answer_for_nobody_is_judged() -> None:
    one = members("a")
    one.rest()
    one.observe("me", "x", 9.0)
    assert not one.judge(9.5) and one.patience(9.5) is None
    one.begin(10.0)
    assert not one.is_current(10.0)
    one.observe("me", "y", 10.1)
    assert not one.judge(12.0)
    one.observe("me", "z", 11.9)
    assert one.judge(12.1) and one.living == {"me"}


def test_a_node_whose_own_lease_was_never_seen_does_not_count_itself() -> None:
    one = Members("me", lease_seconds=LEASE)
    one.observe("a", "x", 0.0)
    assert one.living == {"a"}
