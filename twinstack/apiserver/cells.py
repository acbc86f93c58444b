"""The cells of Tables: one small function for each, from a document and the time to a JSON value.

Absent and null are one. That fields are of their types was checked when the document was written; what they say was not,
so a cell shows anything rather than failing a whole list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from twinstack.api import errors
from twinstack.api.kinds import LabelSelector
from twinstack.api.objects import Document, view_of
from twinstack.api.selectors import of_selector

NONE: Final = "<none>"
UNKNOWN: Final = "<unknown>"
UNSET: Final = "<unset>"
Cell = Callable[[Document, datetime], Any]


def _part(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return document.get(key) or {}


def _spec(document: Document) -> Mapping[str, Any]:
    return document.get("spec") or {}


def _status(document: Document) -> Mapping[str, Any]:
    return document.get("status") or {}


# ---- time


def parse_time(text: str | None) -> datetime | None:
    """A time as Kubernetes writes it (RFC 3339); None for absent, and for what is no time."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def text_of_duration(passed: timedelta) -> str:
    """``5s``, ``2m10s``, ``3h5m``, ``2d1h``, ``400d``: at most two units, fewer the longer it is."""
    seconds = int(passed.total_seconds())
    if passed.total_seconds() <= -2:
        return "<invalid>"
    if seconds <= 0:
        return "0s"
    minutes, hours, days, years = seconds // 60, seconds // 3600, seconds // 86400, seconds // 31_536_000
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if years < 2:
        return f"{days}d"
    if years < 8:
        return _two(years, "y", days % 365, "d")
    return f"{years}y"


def _two(first: int, first_unit: str, second: int, second_unit: str) -> str:
    return f"{first}{first_unit}{second}{second_unit}" if second else f"{first}{first_unit}"


def since(text: str | None, now: datetime) -> str:
    """How long ago that was."""
    then = parse_time(text)
    return UNKNOWN if then is None else text_of_duration(now - then)


def name(document: Document, now: datetime) -> Any:
    return _part(document, "metadata").get("name", "")


def age(document: Document, now: datetime) -> Any:
    return since(_part(document, "metadata").get("creationTimestamp"), now)


def phase(document: Document, now: datetime) -> Any:
    return _status(document).get("phase") or ""


# ---- text


def _joined(values: Iterable[Any], empty: str = NONE) -> str:
    return ",".join(map(str, values)) or empty


def _pairs(labels: Mapping[str, Any] | None, empty: str = NONE) -> str:
    return _joined((f"{key}={value}" for key, value in sorted((labels or {}).items())), empty)


def _first_three(values: list[str]) -> str:
    more = len(values) - 3
    return ",".join(values[:3]) + (f" + {more} more..." if more > 0 else "")


# ---- Service and endpoints


def service_type(document: Document, now: datetime) -> Any:
    return _spec(document).get("type") or ""


def service_cluster_ip(document: Document, now: datetime) -> Any:
    """The first cluster IP; ``None`` is a word here, for headless Services."""
    spec = _spec(document)
    addresses = spec.get("clusterIPs")
    return (addresses[0] if addresses else spec.get("clusterIP")) or NONE


def service_cluster_ips(document: Document, now: datetime) -> Any:
    """All cluster IPs, primary first."""
    spec = _spec(document)
    return _joined(spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else ()))


def service_families(document: Document, now: datetime) -> Any:
    """``IPv6,IPv4 (PreferDualStack)``"""
    spec = _spec(document)
    policy = spec.get("ipFamilyPolicy")
    return _joined(spec.get("ipFamilies") or ()) + (f" ({policy})" if policy else "")


def service_external_ip(document: Document, now: datetime) -> Any:
    """What is reached from outside: by type, external addresses, the load balancer's, or a name."""
    spec = _spec(document)
    type_ = spec.get("type")
    external = spec.get("externalIPs") or []
    if type_ in ("ClusterIP", "NodePort"):
        return _joined(external)
    if type_ == "LoadBalancer":
        ingress = _part(_status(document), "loadBalancer").get("ingress") or []
        reached = {one.get("ip") or one.get("hostname") for one in ingress}
        return _joined([*sorted(filter(None, reached)), *external], "<pending>")
    if type_ == "ExternalName":
        return spec.get("externalName") or ""
    return UNKNOWN


def service_ports(document: Document, now: datetime) -> Any:
    """``80/TCP``, or ``80:30080/TCP`` with a node port."""
    texts = []
    for port in _spec(document).get("ports") or ():
        node_port = port.get("nodePort")
        number = f"{port.get('port')}:{node_port}" if node_port else port.get("port")
        texts.append(f"{number}/{port.get('protocol') or 'TCP'}")
    return _joined(texts)


def service_selector(document: Document, now: datetime) -> Any:
    return _pairs(_spec(document).get("selector"))


def endpoints(document: Document, now: datetime) -> Any:
    """The ready addresses with their ports, three at most; empty when none is ready."""
    subsets = document.get("subsets")
    if not subsets:
        return NONE
    texts: list[str] = []
    for subset in subsets:
        addresses = [address.get("ip") or "" for address in subset.get("addresses") or ()]
        ports = subset.get("ports")
        if ports:
            texts += [f"[{one}]:{port.get('port')}" if ":" in one else f"{one}:{port.get('port')}" for port in ports for one in addresses]
        else:
            texts += addresses
    return _first_three(texts)


def slice_address_type(document: Document, now: datetime) -> Any:
    return document.get("addressType") or ""


def slice_ports(document: Document, now: datetime) -> Any:
    """Numbers, else names; three at most."""
    texts = []
    for port in document.get("ports") or ():
        number = port.get("port")
        text = port.get("name") if number is None else number
        texts.append("*" if text is None else str(text))
    return _first_three(texts) if texts else UNSET


def slice_endpoints(document: Document, now: datetime) -> Any:
    """The addresses, ready or not; three at most."""
    texts = [address for endpoint in document.get("endpoints") or () for address in endpoint.get("addresses") or ()]
    return _first_three(texts) if texts else UNSET


def service_cidrs(document: Document, now: datetime) -> Any:
    return ",".join(_spec(document).get("cidrs") or ())


def parent_ref(document: Document, now: datetime) -> Any:
    """``services/default/web``, with the group behind the resource where it has one."""
    parent = _spec(document).get("parentRef")
    if not parent:
        return NONE
    resource = (parent.get("resource") or "").lower()
    group = parent.get("group")
    namespace = parent.get("namespace")
    return (f"{resource}.{group}" if group else resource) + "/" + (f"{namespace}/" if namespace else "") + (parent.get("name") or "")


# ---- Node


def _condition(status: Mapping[str, Any], type_: str) -> Mapping[str, Any] | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == type_:
            found: Mapping[str, Any] = condition
            return found
    return None


def node_status(document: Document, now: datetime) -> Any:
    """Ready or not, and whether pods may be scheduled."""
    ready = _condition(_status(document), "Ready")
    text = "Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"
    return text + ",SchedulingDisabled" if _spec(document).get("unschedulable") else text


_ROLE: Final = "node-role.kubernetes.io/"


def node_roles(document: Document, now: datetime) -> Any:
    """The roles that labels name, sorted."""
    roles = set()
    for key, value in (_part(document, "metadata").get("labels") or {}).items():
        role = key[len(_ROLE) :] if key.startswith(_ROLE) else value if key == "kubernetes.io/role" else ""
        if role:
            roles.add(role)
    return _joined(sorted(roles))


def _node_info(document: Document, field: str) -> str:
    return str(_part(_status(document), "nodeInfo").get(field) or "")


def node_version(document: Document, now: datetime) -> Any:
    return _node_info(document, "kubeletVersion")


def _node_address(document: Document, type_: str) -> str:
    for address in _status(document).get("addresses") or ():
        if address.get("type") == type_:
            return str(address.get("address"))
    return NONE


def node_internal_ip(document: Document, now: datetime) -> Any:
    return _node_address(document, "InternalIP")


def node_internal_ips(document: Document, now: datetime) -> Any:
    return _joined(one.get("address") or "" for one in _status(document).get("addresses") or () if one.get("type") == "InternalIP")


def node_pod_cidrs(document: Document, now: datetime) -> Any:
    """All pod CIDRs, primary first."""
    spec = _spec(document)
    return _joined(spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else ()))


def node_external_ip(document: Document, now: datetime) -> Any:
    return _node_address(document, "ExternalIP")


def node_os_image(document: Document, now: datetime) -> Any:
    return _node_info(document, "osImage") or UNKNOWN


def node_kernel(document: Document, now: datetime) -> Any:
    """The version, with the architecture in parentheses."""
    architecture = _node_info(document, "architecture")
    return (_node_info(document, "kernelVersion") or UNKNOWN) + (f" ({architecture})" if architecture else "")


def node_runtime(document: Document, now: datetime) -> Any:
    return _node_info(document, "containerRuntimeVersion") or UNKNOWN


# ---- Event


def _event_first(document: Document) -> str | None:
    first: str | None = document.get("firstTimestamp") or document.get("eventTime")
    return first


def event_last_seen(document: Document, now: datetime) -> Any:
    """Of a series, its last observation; else the event's own last time, else its first."""
    last = _part(document, "series").get("lastObservedTime") or document.get("lastTimestamp")
    return since(last or _event_first(document), now)


def event_first_seen(document: Document, now: datetime) -> Any:
    return since(_event_first(document), now)


def event_type(document: Document, now: datetime) -> Any:
    return document.get("type") or ""


def event_reason(document: Document, now: datetime) -> Any:
    return document.get("reason") or ""


def event_object(document: Document, now: datetime) -> Any:
    """``pod/web``"""
    about = _part(document, "involvedObject")
    kind = (about.get("kind") or "").lower()
    return f"{kind}/{about.get('name')}" if about.get("name") else kind


def event_subobject(document: Document, now: datetime) -> Any:
    return _part(document, "involvedObject").get("fieldPath") or ""


def event_source(document: Document, now: datetime) -> Any:
    """``kubelet, node1``"""
    source = _part(document, "source")
    who = source.get("component") or document.get("reportingComponent") or ""
    where = source.get("host") or document.get("reportingInstance")
    return f"{who}, {where}" if where else who


def event_message(document: Document, now: datetime) -> Any:
    return (document.get("message") or "").strip()


def event_count(document: Document, now: datetime) -> Any:
    return _part(document, "series").get("count") or document.get("count") or 1


# ---- workloads


def _template_containers(document: Document) -> list[Mapping[str, Any]]:
    return _part(_part(_spec(document), "template"), "spec").get("containers") or []


def template_containers(document: Document, now: datetime) -> Any:
    return ",".join(one.get("name") or "" for one in _template_containers(document))


def template_images(document: Document, now: datetime) -> Any:
    return ",".join(one.get("image") or "" for one in _template_containers(document))


def text_of_selector(selector: Mapping[str, Any] | None) -> str:
    """A label selector as ``kubectl -l`` would take it; ValueError when it is none."""
    try:
        meant = of_selector(view_of(LabelSelector, selector) if selector is not None else None)
    except (errors.BadRequest, ValueError, TypeError) as error:
        raise ValueError("not a label selector") from error
    if meant is None:
        return ""
    texts = []
    single = (selector or {}).get("matchLabels") or {}
    for key, operator, values in sorted(meant.requirements):
        if operator in ("Exists", "DoesNotExist"):
            texts.append(key if operator == "Exists" else f"!{key}")
        elif operator == "In" and key in single and values == {single[key]}:
            texts.append(f"{key}={single[key]}")
        else:
            texts.append(f"{key} {operator.lower()} ({','.join(sorted(values))})")
    return ",".join(texts)


def _selector(document: Document, empty: str, wrong: str) -> str:
    try:
        return text_of_selector(_spec(document).get("selector")) or empty
    except ValueError:
        return wrong


def deployment_selector(document: Document, now: datetime) -> Any:
    return _selector(document, "", "<invalid>")


def replicaset_selector(document: Document, now: datetime) -> Any:
    return _selector(document, NONE, "<error>")


def replicationcontroller_selector(document: Document, now: datetime) -> Any:
    return _pairs(_spec(document).get("selector"))


def policy_pods(document: Document, now: datetime) -> Any:
    try:
        return text_of_selector(_spec(document).get("podSelector")) or NONE
    except ValueError:
        return "<error>"


def deployment_ready(document: Document, now: datetime) -> Any:
    return f"{_status(document).get('readyReplicas') or 0}/{_spec(document).get('replicas') or 0}"


def deployment_updated(document: Document, now: datetime) -> Any:
    return _status(document).get("updatedReplicas") or 0


def deployment_available(document: Document, now: datetime) -> Any:
    return _status(document).get("availableReplicas") or 0


def replicas_desired(document: Document, now: datetime) -> Any:
    return _spec(document).get("replicas") or 0


def replicas_current(document: Document, now: datetime) -> Any:
    return _status(document).get("replicas") or 0


def replicas_ready(document: Document, now: datetime) -> Any:
    return _status(document).get("readyReplicas") or 0


def _count(field: str) -> Cell:
    def cell(document: Document, now: datetime) -> Any:
        return _status(document).get(field) or 0

    return cell


daemons_desired, daemons_current = _count("desiredNumberScheduled"), _count("currentNumberScheduled")
daemons_ready, daemons_updated, daemons_available = _count("numberReady"), _count("updatedNumberScheduled"), _count("numberAvailable")


def job_status(document: Document, now: datetime) -> Any:
    """How it ended, or what keeps it from ending."""
    true = {one.get("type") for one in _status(document).get("conditions") or () if one.get("status") == "True"}
    ended = next((type_ for type_ in ("Complete", "Failed") if type_ in true), None)
    if ended or not _part(document, "metadata").get("deletionTimestamp"):
        return ended or next((type_ for type_ in ("Suspended", "FailureTarget", "SuccessCriteriaMet") if type_ in true), "Running")
    return "Terminating"


def job_completions(document: Document, now: datetime) -> Any:
    """``1/3``, and ``1/1 of 4`` where the first success is enough."""
    spec, done = _spec(document), _status(document).get("succeeded") or 0
    if spec.get("completions") is not None:
        return f"{done}/{spec['completions']}"
    return f"{done}/1 of {spec['parallelism']}" if (spec.get("parallelism") or 0) > 1 else f"{done}/1"


def job_duration(document: Document, now: datetime) -> Any:
    """From its start to its success, or until now."""
    status = _status(document)
    start, end = parse_time(status.get("startTime")), parse_time(status.get("completionTime"))
    return "" if start is None else text_of_duration((end or now) - start)


def _budgeted(field: str) -> Cell:
    def cell(document: Document, now: datetime) -> Any:
        value = _spec(document).get(field)
        return "N/A" if value is None else str(value)

    return cell


budget_least, budget_most, budget_allowed = _budgeted("minAvailable"), _budgeted("maxUnavailable"), _count("disruptionsAllowed")


def revision_controller(document: Document, now: datetime) -> Any:
    """``statefulset.apps/web``"""
    for owner in _part(document, "metadata").get("ownerReferences") or ():
        if owner.get("controller"):
            group = str(owner.get("apiVersion") or "").rpartition("/")[0]
            return f"{str(owner.get('kind') or '').lower()}{'.' if group else ''}{group}/{owner.get('name')}"
    return NONE


def revision_number(document: Document, now: datetime) -> Any:
    return document.get("revision") or 0


def daemons_nodes(document: Document, now: datetime) -> Any:
    return _pairs(_part(_part(_spec(document), "template"), "spec").get("nodeSelector"))


# ---- what holds data


def configmap_data(document: Document, now: datetime) -> Any:
    return len(document.get("data") or ()) + len(document.get("binaryData") or ())


def secret_data(document: Document, now: datetime) -> Any:
    return len(document.get("data") or ())


def secret_type(document: Document, now: datetime) -> Any:
    return document.get("type") or ""


def lease_holder(document: Document, now: datetime) -> Any:
    return _spec(document).get("holderIdentity") or ""


# ---- roles and bindings


def created_at(document: Document, now: datetime) -> Any:
    """The moment itself, not how long ago."""
    return _part(document, "metadata").get("creationTimestamp") or ""


def binding_role(document: Document, now: datetime) -> Any:
    """``ClusterRole/view``"""
    reference = _part(document, "roleRef")
    return f"{reference.get('kind', '')}/{reference.get('name', '')}"


def binding_subjects(kind: str) -> Cell:
    """The cell of the subjects of one kind."""

    def cell(document: Document, now: datetime) -> Any:
        found = [one for one in document.get("subjects") or () if one.get("kind") == kind]
        return ", ".join(f"{one.get('namespace', '')}/{one.get('name', '')}" if kind == "ServiceAccount" else str(one.get("name", "")) for one in found)

    return cell
