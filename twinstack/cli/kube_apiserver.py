"""``twinstack kube-apiserver``: serve the Kubernetes API, with upstream's flags."""

from __future__ import annotations

from typing import Any

import click

from twinstack.cli.program import logging_options, run_program
from twinstack.loops.durations import parse_duration
from twinstack.net.errors import Error
from twinstack.net.family import Family


class Duration(click.ParamType[float]):
    """A duration as Go writes it: ``1h30m``, ``90s``. In seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return parse_duration(value)
        except Error as error:
            self.fail(str(error), param, ctx)


@click.command("kube-apiserver")
@click.option("--data-dir", required=True, help="Where the embedded store keeps its files; made when it does not exist.")
@click.option(
    "--bind-address", default=Family.IPV4.facts.unspecified, show_default=True, help="Listen here; unspecified: on all addresses of every family."
)
@click.option("--secure-port", type=int, default=6443, show_default=True, help="Serve HTTPS on this port.")
@click.option("--advertise-address", default="", help="Where members of the cluster reach this server; found out when left out.")
@click.option("--token-auth-file", default="", help='Known bearer tokens: a CSV file with token,user,uid,"group1,group2" a line.')
@click.option("--client-ca-file", default="", help="Accept client certificates of this authority: common name is the user, organizations the groups.")
@click.option("--tls-cert-file", default="", help="The server's certificate (PEM); a self-signed one is made when left out.")
@click.option("--tls-private-key-file", default="", help="The key of --tls-cert-file.")
@click.option("--cert-dir", default="", help="Where the self-signed certificate is kept.  [default: DATA-DIR/pki]")
@click.option("--authorization-mode", default="AlwaysAllow", show_default=True, help="Only AlwaysAllow for now.")
@click.option("--anonymous-auth", type=bool, default=True, show_default=True, help="Let anybody ask /livez, /readyz and /healthz.")
@click.option("--service-cluster-ip-range", default="10.0.0.0/24", show_default=True, help="A CIDR for Services, or one of each family, the primary first.")
@click.option("--service-node-port-range", default="30000-32767", show_default=True, help="Ports for Services of type NodePort and LoadBalancer.")
@click.option("--kubelet-client-certificate", default="", help="The certificate (PEM) to show to kubelets.")
@click.option("--kubelet-client-key", default="", help="The key of --kubelet-client-certificate.")
@click.option("--kubelet-certificate-authority", default="", help="Verify kubelets by this authority (PEM).")
@click.option("--endpoint-reconciler-type", default="lease", show_default=True, help="Who keeps the endpoints of the kubernetes Service: lease, or none.")
@click.option("--event-ttl", type=Duration(), default="1h", show_default=True, help="How long events are kept.")
@click.option("--etcd-servers", default="", help="Refused for now: the store is embedded.")
@logging_options
def command(etcd_servers: str, event_ttl: float, verbosity: int, logging_format: str, **flags: Any) -> None:
    """Serve the Kubernetes API over HTTPS, with an embedded durable store."""
    if etcd_servers:
        raise Error(f"--etcd-servers={etcd_servers} is not served yet; leave it out and give --data-dir for the embedded store")
    # Heavy: the HTTP library and cryptography.
    from twinstack.apiserver.app import check, run
    from twinstack.apiserver.settings import Settings

    settings = Settings(event_ttl_seconds=event_ttl, **flags)
    check(settings)
    run_program(run(settings), verbosity=verbosity, logging_format=logging_format)
