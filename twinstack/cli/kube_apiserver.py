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


def _refuse_etcd(context: click.Context, parameter: click.Parameter, value: str) -> None:
    """Said before anything else: a command line of upstream's has no --data-dir either."""
    if value:
        raise Error(f"--etcd-servers={value} is not served yet; leave it out and give --data-dir for the embedded store")


@click.command("kube-apiserver")
@click.option("--data-dir", required=True, help="Where the embedded store keeps its files; made when it does not exist.")
@click.option("--bind-address", default=Family.IPV4.facts.unspecified, show_default=True, help="Listen here; unspecified: on all addresses of every family.")
@click.option("--secure-port", type=int, default=6443, show_default=True, help="Serve HTTPS on this port.")
@click.option("--advertise-address", default="", help="Where members of the cluster reach this server; found out when left out.")
@click.option("--unix-socket", default="", help="Listen there too, without TLS: whoever may open the file, this server's own user, is system:admin.")
@click.option("--token-auth-file", default="", help='Known bearer tokens: a CSV file with token,user,uid,"group1,group2" a line.')
@click.option("--client-ca-file", default="", help="Accept client certificates of this authority: common name is the user, organizations the groups.")
@click.option("--tls-cert-file", default="", help="The server's certificate (PEM); a self-signed one is made when left out.")
@click.option("--tls-private-key-file", default="", help="The key of --tls-cert-file.")
@click.option("--cert-dir", default="", help="Where the self-signed certificate is kept.  [default: DATA-DIR/pki]")
@click.option(
    "--authorization-mode", default="AlwaysAllow", show_default=True, help="Who decides, in order: some of Node, RBAC, AlwaysAllow, AlwaysDeny, with commas."
)
@click.option(
    "--anonymous-auth",
    type=bool,
    is_flag=False,
    flag_value=True,
    default=True,
    show_default=True,
    help="Let anybody ask /livez, /readyz, /healthz and /version.",
)
@click.option(
    "--enable-bootstrap-token-auth",
    type=bool,
    default=False,
    is_flag=False,
    flag_value=True,
    show_default=True,
    help="Take the bootstrap tokens that stand in kube-system.",
)
@click.option(
    "--service-account-issuer",
    "service_account_issuers",
    multiple=True,
    default=("https://kubernetes.default.svc.cluster.local",),
    show_default=True,
    help="Who issues tokens of ServiceAccounts; given again: issuers whose tokens are accepted, too.",
)
@click.option("--service-account-signing-key-file", default="", help="Sign tokens with this key (PEM; EC P-256 or RSA).  [default: CERT-DIR/sa.key, made once]")
@click.option(
    "--service-account-key-file", "service_account_key_files", multiple=True, help="Accept tokens signed by these keys, too (PEM; public or private)."
)
@click.option("--service-account-jwks-uri", default="", help="Where verifiers of tokens find the public keys.  [default: this server's own]")
@click.option("--api-audiences", default="", help="For whom a token must be meant, with commas.  [default: the issuer]")
@click.option("--enable-admission-plugins", default="", help="Admission plugins besides those that are always on: ServiceAccount.")
@click.option("--disable-admission-plugins", default="", help="Admission plugins that stay off.")
@click.option("--audit-log-path", default="", help="Write what was asked by whom to this file, a JSON line for each event; -: to standard output.")
@click.option("--audit-policy-file", default="", help="What the audit log tells of: an audit.k8s.io/v1 Policy with levels None, Metadata, Request.")
@click.option("--audit-log-maxsize", type=int, default=0, show_default=True, help="Begin a new file at so many megabytes; 0: at 100.")
@click.option("--audit-log-maxage", type=int, default=0, show_default=True, help="Keep old files for so many days; 0: for ever.")
@click.option("--audit-log-maxbackup", type=int, default=0, show_default=True, help="Keep so many old files; 0: all.")
@click.option("--tls-min-version", default="VersionTLS12", show_default=True, help="The oldest TLS to speak: VersionTLS12 or VersionTLS13.")
@click.option("--tls-cipher-suites", default="", help="Cipher suites of TLS 1.2, by Go's names, with commas.  [default: OpenSSL's]")
@click.option("--request-timeout", "request_timeout_seconds", type=Duration(), default="1m0s", show_default=True, help="How long a request's body may take.")
@click.option(
    "--min-request-timeout", "min_request_timeout_seconds", type=int, default=1800, show_default=True, help="Seconds that a watch lasts which names no end."
)
@click.option("--goaway-chance", type=float, default=0.0, show_default=True, help="0: HTTP/2 is not spoken.")
@click.option("--max-requests-inflight", type=int, default=400, show_default=True, help="Refuse reading beyond so many requests at once; 0: no limit.")
@click.option("--max-mutating-requests-inflight", type=int, default=200, show_default=True, help="Refuse changes beyond so many at once; 0: no limit.")
@click.option("--service-cluster-ip-range", default="10.0.0.0/24", show_default=True, help="A CIDR for Services, or one of each family, the primary first.")
@click.option("--service-node-port-range", default="30000-32767", show_default=True, help="Ports for Services of type NodePort and LoadBalancer.")
@click.option("--kubernetes-service-node-port", type=int, default=0, help="Make the kubernetes Service one of type NodePort, with this port.")
@click.option("--apiserver-count", type=int, default=1, show_default=True, help="How many servers there are; the embedded store has one.")
@click.option("--kubelet-client-certificate", default="", help="The certificate (PEM) to show to kubelets.")
@click.option("--kubelet-client-key", default="", help="The key of --kubelet-client-certificate.")
@click.option("--kubelet-certificate-authority", default="", help="Verify kubelets by this authority (PEM).")
@click.option("--endpoint-reconciler-type", default="lease", show_default=True, help="Who keeps the endpoints of the kubernetes Service: lease, or none.")
@click.option("--event-ttl", type=Duration(), default="1h", show_default=True, help="How long events are kept.")
@click.option("--etcd-servers", default="", callback=_refuse_etcd, is_eager=True, expose_value=False, help="Refused for now: the store is embedded.")
@logging_options
def command(event_ttl: float, verbosity: int, logging_format: str, **flags: Any) -> None:
    """Serve the Kubernetes API over HTTPS, with an embedded durable store.

    \b
    Example:
      twinstack kube-apiserver --data-dir /var/lib/twinstack --service-cluster-ip-range 10.96.0.0/16,fd00:10:96::/112 --token-auth-file tokens.csv
    """
    # Heavy: the HTTP library and cryptography.
    from twinstack.apiserver.app import check, run
    from twinstack.apiserver.settings import Settings

    for name in ("api_audiences", "enable_admission_plugins", "disable_admission_plugins", "tls_cipher_suites"):
        flags[name] = tuple(word.strip() for word in flags[name].split(",") if word.strip())
    settings = Settings(event_ttl_seconds=event_ttl, **flags)
    check(settings)
    run_program(run(settings), verbosity=verbosity, logging_format=logging_format)
