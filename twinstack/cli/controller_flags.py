"""The flags that kube-controller-manager and kube-scheduler share."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import click

from twinstack.cli.kube_apiserver import Duration
from twinstack.net.family import Family

F = TypeVar("F", bound=Callable[..., Any])


def common_options(component: str, port: int) -> Callable[[F], F]:
    """The shared flags of a program, with its own defaults."""
    options = (
        click.option("--kubeconfig", default="", help="The kubeconfig of the API server; KUBECONFIG and ~/.kube/config when left out."),
        click.option("--master", default="", help="The API server's address, instead of the kubeconfig's."),
        click.option(
            "--leader-elect",
            type=bool,
            default=True,
            is_flag=False,
            flag_value=True,
            show_default=True,
            help="Work only while holding a Lease, so that several may run.",
        ),
        click.option("--leader-elect-lease-duration", "leader_elect_lease_duration_seconds", type=Duration(), default="15s", show_default=True),
        click.option("--leader-elect-renew-deadline", "leader_elect_renew_deadline_seconds", type=Duration(), default="10s", show_default=True),
        click.option("--leader-elect-retry-period", "leader_elect_retry_period_seconds", type=Duration(), default="2s", show_default=True),
        click.option("--leader-elect-resource-name", default=component, show_default=True, help="The Lease's name."),
        click.option("--leader-elect-resource-namespace", default="kube-system", show_default=True, help="The Lease's namespace."),
        click.option("--leader-elect-resource-lock", default="leases", show_default=True, help="The kind of the lock: leases."),
        click.option("--kube-api-qps", type=float, default=0.0, show_default=True, help="Requests a second to the API server; 0: as many as it answers."),
        click.option("--kube-api-burst", type=int, default=0, show_default=True, help="Requests at once; 0: as many as in a second."),
        click.option("--bind-address", default=Family.IPV4.facts.loopback, show_default=True, help="Serve health and metrics here."),
        click.option("--secure-port", type=int, default=port, show_default=True, help="Serve health and metrics on this port; 0: do not."),
        click.option("--tls-cert-file", default="", help="Serve HTTPS with this certificate (PEM); plain HTTP when left out."),
        click.option("--tls-private-key-file", default="", help="The key of --tls-cert-file."),
    )

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def settle() -> None:
    """Once everything has been read: it stays, mostly, and the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
