"""What a program's health is made of: named checks, and the one answer that they give.

A check is a named function that returns nothing when all is well and raises, or returns a text that
says what is wrong, when not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Check = Callable[[], str | None]


def answer(checks: Mapping[str, Check], name: str, *, verbose: bool, exclude: frozenset[str]) -> tuple[int, str]:
    """The status code and body of a health endpoint."""
    lines, failed = [], []
    for check, run in checks.items():
        if check in exclude:
            lines.append(f"[+]{check} excluded: ok")
            continue
        try:
            wrong = run()
        except Exception as error:
            wrong = str(error) or type(error).__name__
        lines.append(f"[-]{check} failed: {wrong}" if wrong else f"[+]{check} ok")
        if wrong:
            failed.append(check)
    if failed:
        return 500, "\n".join([*lines, f"{name} check failed"]) + "\n"
    return 200, "\n".join([*lines, f"{name} check passed"]) + "\n" if verbose else "ok"
