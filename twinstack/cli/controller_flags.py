"""The flags that kube-controller-manager and kube-scheduler share."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import click

from twinstack.cli.kube_apiserver import Duration
from twinstack.net.cidr import parse_address
from twinstack.net.family import Family

F = TypeVar("F", bound=Callable[..., Any])


def common_options(component: str, port: int) -> Callable[[F], F]:
    """The shared flags of a program, with its own defaults."""
    options = (
        click.option("--kubeconfig", default="", help="How to reach the API server.  [default: KUBECONFIG, else ~/.kube/config, else the pod's account]"),
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
        click.option(
            "--leader-elect-lease-duration",
            "leader_elect_lease_duration_seconds",
            type=Duration(),
            default="15s",
            show_default=True,
            help="How long others wait for a leader that is silent.",
        ),
        click.option(
            "--leader-elect-renew-deadline",
            "leader_elect_renew_deadline_seconds",
            type=Duration(),
            default="10s",
            show_default=True,
            help="How long a leader tries to renew before it stops leading.",
        ),
        click.option(
            "--leader-elect-retry-period",
            "leader_elect_retry_period_seconds",
            type=Duration(),
            default="2s",
            show_default=True,
            help="The wait between two tries to become or stay the leader.",
        ),
        click.option("--leader-elect-resource-name", default=component, show_default=True, help="The Lease's name."),
        click.option("--leader-elect-resource-namespace", default="kube-system", show_default=True, help="The Lease's namespace."),
        click.option("--leader-elect-resource-lock", default="leases", show_default=True, help="The kind of the lock: leases."),
        click.option("--kube-api-qps", type=float, default=0.0, show_default=True, help="Requests a second to the API server; 0: as many as it answers."),
        click.option("--kube-api-burst", type=int, default=0, show_default=True, help="Requests at once; 0: as many as in a second."),
        click.option("--bind-address", default=Family.IPV4.facts.loopback, show_default=True, help="Serve health and metrics here."),
        click.option("--secure-port", type=int, default=port, show_default=True, help="Serve health and metrics on this port; 0: do not."),
        click.option(
            "--tls-cert-file",
            default="",
            help="Serve HTTPS with this certificate (PEM); without it HTTP, or HTTPS where a flag says who may look.",
        ),
        click.option("--tls-private-key-file", default="", help="The key of --tls-cert-file."),
    )

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


# Upstream's flags that mean nothing here, so that its command lines are taken unchanged; True for those that are true or false.
_WITHOUT_EFFECT: dict[str, tuple[bool, str]] = {
    **dict.fromkeys(("profiling", "contention-profiling"), (True, "there is no profiler")),
    "kube-api-content-type": (False, "JSON is spoken whichever is named"),
    "log-flush-frequency": (False, "logs are not kept back"),
    "vmodule": (False, "verbosity is one for all modules"),
    **dict.fromkeys(("permit-address-sharing", "permit-port-sharing"), (True, "the door is opened as everybody's is")),
    "http2-max-streams-per-connection": (False, "the door speaks HTTP/1.1"),
    "show-hidden-metrics-for-version": (False, "no metric is hidden"),
}
# Who may look at the door: it asks nobody, so it has to be where only this machine comes.
_WHO_MAY_LOOK: dict[str, bool] = {
    **dict.fromkeys(("authentication-kubeconfig", "authorization-kubeconfig", "authentication-token-webhook-cache-ttl", "client-ca-file"), False),
    **dict.fromkeys(("authorization-always-allow-paths", "authorization-webhook-cache-authorized-ttl", "authorization-webhook-cache-unauthorized-ttl"), False),
    **dict.fromkeys(("requestheader-allowed-names", "requestheader-client-ca-file", "requestheader-extra-headers-prefix"), False),
    **dict.fromkeys(("requestheader-group-headers", "requestheader-uid-headers", "requestheader-username-headers"), False),
    **dict.fromkeys(("authentication-skip-lookup", "authentication-tolerate-lookup-failure"), True),
}
_MANAGER_WITHOUT_EFFECT: dict[str, tuple[bool, str]] = {
    "cluster-name": (False, "it names what a cloud makes"),
    **dict.fromkeys(
        ("min-resync-period", "namespace-sync-period", "resource-quota-sync-period", "route-reconciliation-period"),
        (False, "nothing that is watched gets lost"),
    ),
    "controller-start-interval": (False, "all start at once"),
    "configure-cloud-routes": (True, "there is no cloud"),
    "service-account-private-key-file": (False, "tokens that never expire are not made"),
    **dict.fromkeys(
        ("concurrent-resource-quota-syncs", "concurrent-service-syncs", "concurrent-horizontal-pod-autoscaler-syncs"),
        (False, "of a controller that is not here"),
    ),
    **dict.fromkeys(("concurrent-ephemeralvolume-syncs", "concurrent-validating-admission-policy-status-syncs"), (False, "of a controller that is not here")),
    **dict.fromkeys(
        ("attach-detach-reconcile-sync-period", "pvclaimbinder-sync-period", "flex-volume-plugin-dir"), (False, "of a controller that is not here")
    ),
    **dict.fromkeys(
        ("disable-attach-detach-reconcile-sync", "enable-dynamic-provisioning", "enable-hostpath-provisioner"), (True, "of a controller that is not here")
    ),
}
# The signers' files, which a command line of kubeadm names: they are taken with a warning, for nobody can ask for a certificate.
_SIGNING = (
    *("cluster-signing-cert-file", "cluster-signing-key-file", "cluster-signing-duration"),
    *(
        f"cluster-signing-{signer}-{file}-file"
        for signer in ("kubelet-client", "kubelet-serving", "kube-apiserver-client", "legacy-unknown")
        for file in ("cert", "key")
    ),
)
# Flags whose other values would ask for what is not here: the value that changes nothing, and why no other will do.
_MANAGER_REFUSED: dict[str, tuple[str, str]] = {
    "cidr-allocator-type": ("RangeAllocator", "it is the one that is here"),
    "cloud-provider": ("", "there is no cloud here"),
    "enable-garbage-collector": ("true", "--controllers=*,-garbage-collector-controller leaves it out"),
    "endpoint-updates-batch-period": ("0s", "changes are written at once"),
    "endpointslice-updates-batch-period": ("0s", "changes are written at once"),
    "mirroring-endpointslice-updates-batch-period": ("0s", "changes are written at once"),
    "feature-gates": ("", "there are none here"),
}


def unlooked_options(*, manager: bool = False) -> Callable[[F], F]:
    """Upstream's flags that are taken and not looked at, and those of which only one value will do."""

    def decorate(function: F) -> F:
        for name, (boolean, why) in reversed(({**_WITHOUT_EFFECT, **(_MANAGER_WITHOUT_EFFECT if manager else {})}).items()):
            function = _unlooked(name, boolean, f"Taken and without effect: {why}.", None)(function)
        for name, boolean in reversed(_WHO_MAY_LOOK.items()):
            function = _unlooked(name, boolean, "Taken where --bind-address is this machine's own: whoever reaches the door may look.", _on_loopback)(function)
        for name in reversed(_SIGNING) if manager else ():
            function = _unlooked(name, False, "Taken with a warning: no CertificateSigningRequest is served, approved or signed.", _remembered)(function)
        for name, (fitting, why) in reversed(_MANAGER_REFUSED.items()) if manager else ():
            function = _unlooked(name, False, f"Only {fitting or 'an empty value'} will do: {why}.", _only(fitting, why))(function)
        return function

    return decorate


Callback = Callable[[click.Context, click.Parameter, Any], Any]


def _unlooked(name: str, boolean: bool, text: str, callback: Callback | None) -> Callable[[F], F]:
    if boolean:
        return click.option(f"--{name}", type=bool, is_flag=False, flag_value=True, default=None, expose_value=False, callback=callback, help=text)
    return click.option(f"--{name}", default=None, expose_value=False, callback=callback, help=text)


def _on_loopback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Whether the door is on the loopback is known once that flag has been read."""
    if value not in (None, ""):
        context.meta.setdefault("who may look", []).append(parameter.opts[0])


def _remembered(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value not in (None, ""):
        context.meta.setdefault("signing", []).append(parameter.opts[0])


def signing_flags() -> tuple[str, ...]:
    """The flags for the signing of certificates that were given."""
    return tuple(click.get_current_context().meta.get("signing") or ())


def check_door(bind_address: str) -> bool:
    """Whether a flag says who may look, as kubeadm's do, whose probes come by HTTPS.

    click.UsageError when the door is one that others reach, and that asks nobody.
    """
    context = click.get_current_context()
    named = context.meta.get("who may look") or ()
    if named and not parse_address(bind_address).is_loopback:
        own = Family.of(parse_address(bind_address)).facts.loopback
        raise click.UsageError(f"{named[0]} does not guard --bind-address={bind_address}: whoever reaches the door may look; {own} would do", context)
    return bool(named)


def _only(fitting: str, why: str) -> Callback:
    def check(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value != fitting:
            hint = f"{fitting} would do" if fitting else "leave it out"
            raise click.BadParameter(f"{value!r} is not obeyed here, as {why}; {hint}", context, parameter)

    return check


def settle() -> None:
    """Once everything has been read: it stays, mostly, and the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
