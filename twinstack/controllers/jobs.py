"""A Job runs pods until so many have succeeded, or too many have failed, or its time is over.

The invariant: while the Job is not finished there are as many active pods as ``spec.parallelism`` and what is missing to
``spec.completions`` allow; its status counts each pod that has ended once. When it is finished, no pod of it runs.

Theory. A pod that is gone cannot be counted any more, so each pod has a finalizer that holds it until it is: first
its uid is written into the status as uncounted, then the finalizer is taken away, then the uid makes way for one more in the
count. Whatever write comes last before an interruption, the next decision goes on from what stands.
A pod that is being deleted counts as failed, unless it is the Job itself that takes it away (less parallelism, suspension).

After failures in a row the next pod waits: 10 s, doubled with each, 10 minutes at most. Failed pods that somebody took away count on, by
the status; when the last one was is remembered until the process ends.

In an Indexed Job each number from 0 to ``spec.completions`` has a pod of its own, and is done when one of its pods has succeeded. How often an
index has failed is written on the pod that comes next; until there is one, the last pod that failed keeps its finalizer, and with it the count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from twinstack.api.kinds import Condition, Job, Pod, condition_of
from twinstack.api.objects import Document, Key, document_of
from twinstack.api.resources import resource_of
from twinstack.api.times import parse_time, text_of_time
from twinstack.api.world import Absent, Action, After, Create, Delete, Patch, Tell, Watch, World, controller_key, own_key
from twinstack.rules.indexes import FAILURES, INDEX, failures_before, index_of, parse_indexes, text_of_indexes
from twinstack.rules.job_policies import FAIL_INDEX, FAIL_JOB, IGNORE, enough_succeeded, judgement_of
from twinstack.rules.workloads import active, controlled_by, owner_reference, ready, references, template_metadata, text_of_refusal, with_condition

TRACKING = "batch.kubernetes.io/job-tracking"
JOB_NAME = "batch.kubernetes.io/job-name"
_RESOURCE, _PODS = resource_of(Job), resource_of(Pod)
_FIRST_DELAY, _LAST_DELAY = 10, 600
_BURST, _NO_LIMIT = 500, 2**31 - 1
_NUMBER = "JOB_COMPLETION_INDEX"
MANAGER = "kubernetes.io/job-controller"
_ENDS = {"SuccessCriteriaMet": "Complete", "FailureTarget": "Failed"}  # what is decided, and what it is once no pod runs any more


class Jobs:
    """Pods for Jobs."""

    name = "job-controller"
    slow_start = True

    def __init__(self) -> None:
        # When a pod of a Job failed last, by uid: for back-off after somebody took that pod away. Who begins anew has forgotten, as upstream has.
        self._failed_last: dict[str, datetime] = {}
        self.watches: Sequence[Watch] = (Watch(Job, self._keys_of_job), Watch(Pod, controller_key("Job")))

    def decide(self, key: Key, world: World) -> list[Action]:
        one = world.get(Job, key)
        actions = list(_orphans_let_go(key, one, world))
        if one is None or one.spec.managedBy not in (None, "", MANAGER):
            return actions
        pods = [pod for pod in world.owned(Pod, one.metadata.uid) if controlled_by(pod, one.metadata.uid)]
        status = _counted(one, pods)
        if one.metadata.deletionTimestamp is None and _end_of(one) is None:
            actions.extend(_on_its_way(one, pods, status, world, self._last_failure(one, pods, world.now)))
        else:
            self._failed_last.pop(one.metadata.uid, None)
        live = [pod for pod in pods if active(pod)]
        status["active"] = len(live)
        status["ready"] = sum(1 for pod in live if ready(pod))
        status["terminating"] = sum(1 for pod in pods if pod.metadata.deletionTimestamp is not None and pod.status.phase not in ("Failed", "Succeeded"))
        _end(status, world.now)
        before = document_of(one.status)
        if _meant(status) != _meant(before):
            uncounted = {word: status["uncountedTerminatedPods"].get(word) for word in ("succeeded", "failed")}
            patch: Document = {"status": status | {"uncountedTerminatedPods": uncounted if any(uncounted.values()) else None}}
            actions.append(Patch(_RESOURCE, key, patch, subresource="status", uid=one.metadata.uid))
        actions.extend(_counted_let_go(one, pods))
        return actions

    def _keys_of_job(self, before: Job | None, after: Job | None, world: World) -> Iterable[Key]:
        if after is None and before is not None:
            self._failed_last.pop(before.metadata.uid, None)
        return own_key(before, after, world)

    def _last_failure(self, one: Job, pods: Sequence[Pod], now: datetime) -> datetime | None:
        ends = [_ended_at(pod, now) for pod in pods if _has_failed(one, pod)]
        known = self._failed_last.get(one.metadata.uid)
        latest = max([*ends, *([known] if known else ())], default=None)
        if latest is not None:
            self._failed_last[one.metadata.uid] = latest
        return latest

    def refused(self, key: Key, error: Exception, world: World) -> list[Action]:
        """The server makes no pods of this template."""
        one = world.get(Job, key)
        return [] if one is None else [Tell(one, "Warning", "FailedCreate", f"The server refuses: {text_of_refusal(error)}")]


def _meant(status: Document) -> Document:
    """A status without what is nothing; that no index has failed is something, where indexes may fail."""
    return {name: value for name, value in status.items() if value or (name == "failedIndexes" and value is not None)}


class FinishedJobs:
    """Deletes Jobs so long after they have finished as they say themselves."""

    name = "ttl-after-finished-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (Watch(Job, own_key),)

    def decide(self, key: Key, world: World) -> list[Action]:
        one = world.get(Job, key)
        end = _end_of(one) if one else None
        since = parse_time(end.lastTransitionTime) if end else None
        if one is None or since is None or one.spec.ttlSecondsAfterFinished is None or one.metadata.deletionTimestamp is not None:
            return []
        left = one.spec.ttlSecondsAfterFinished - (world.now - since).total_seconds()
        return [After(left)] if left > 0 else [Delete(_RESOURCE, key, uid=one.metadata.uid, propagation_policy="Foreground")]


# ---- What has ended


def _has_succeeded(pod: Pod) -> bool:
    return pod.status.phase == "Succeeded"


def _has_failed(one: Job, pod: Pod) -> bool:
    """One that is going counts at once, unless the Job says that it has to be over; where no node runs it, it is."""
    if pod.status.phase == "Failed" or pod.metadata.deletionTimestamp is None or _has_succeeded(pod):
        return pod.status.phase == "Failed"
    return one.spec.podReplacementPolicy != "Failed" or not pod.spec.nodeName


def _is_ignored(one: Job, pod: Pod) -> bool:
    """Whether the pod's failure counts for nothing."""
    return _has_failed(one, pod) and judgement_of(pod, one.spec.podFailurePolicy).action == IGNORE


def _is_indexed(one: Job) -> bool:
    return one.spec.completionMode == "Indexed"


def _counted(one: Job, pods: Sequence[Pod]) -> Document:
    """The status with what can be counted now, and what is to be counted next."""
    status = document_of(one.status)
    held = {pod.metadata.uid: pod for pod in pods if TRACKING in pod.metadata.finalizers}
    uncounted = one.status.uncountedTerminatedPods
    remaining: dict[str, list[str]] = {}
    for word, before, has_ended in (
        ("succeeded", (uncounted and uncounted.succeeded) or (), _has_succeeded),
        ("failed", (uncounted and uncounted.failed) or (), lambda pod: _has_failed(one, pod) and not _is_ignored(one, pod)),
    ):
        status[word] = status.get(word, 0) + sum(1 for uid in before if uid not in held)
        remaining[word] = [uid for uid in before if uid in held]
        remaining[word] += [uid for uid, pod in held.items() if has_ended(pod) and uid not in before]
    if _is_indexed(one):
        _count_indexes(one, pods, status)
        remaining.pop("succeeded")  # an index is done once, whatever is counted twice
    status["uncountedTerminatedPods"] = {word: uids for word, uids in remaining.items() if uids}
    return status


def _count_indexes(one: Job, pods: Sequence[Pod], status: Document) -> None:
    """Which indexes are done, and which will never be."""
    numbers = range(one.spec.completions or 0)
    done = parse_indexes(one.status.completedIndexes)
    done |= {
        number for pod in pods if _has_succeeded(pod) and TRACKING in pod.metadata.finalizers and (number := index_of(pod)) in numbers and number is not None
    }
    done = {number for number in done if number in numbers}
    status["completedIndexes"], status["succeeded"] = text_of_indexes(done) or None, len(done)
    if one.spec.backoffLimitPerIndex is None:
        return
    lost = parse_indexes(one.status.failedIndexes)
    for number, failures in _failures(one, pods).items():
        if failures > one.spec.backoffLimitPerIndex and number not in done:
            lost.add(number)
    for pod in pods:
        number = index_of(pod)
        if number is not None and number not in done and _has_failed(one, pod) and judgement_of(pod, one.spec.podFailurePolicy).action == FAIL_INDEX:
            lost.add(number)
    status["failedIndexes"] = text_of_indexes(number for number in lost if number in numbers)


def _failures(one: Job, pods: Iterable[Pod]) -> dict[int, int]:
    """How often each index has failed, as far as there are pods that tell."""
    found: dict[int, int] = {}
    for pod in pods:
        number = index_of(pod)
        if number is not None:
            count = failures_before(pod) + (1 if _has_failed(one, pod) and not _is_ignored(one, pod) else 0)
            found[number] = max(found.get(number, 0), count)
    return found


def _counted_let_go(one: Job, pods: Sequence[Pod]) -> Iterator[Action]:
    """The finalizers of pods whose uid is written down go, and of those that need not be."""
    uncounted = one.status.uncountedTerminatedPods
    written = {*((uncounted and uncounted.succeeded) or ()), *((uncounted and uncounted.failed) or ())}
    done = parse_indexes(one.status.completedIndexes) if _is_indexed(one) else set()
    for pod in pods:
        if TRACKING not in pod.metadata.finalizers:
            continue
        counted = pod.metadata.uid in written or _is_ignored(one, pod) or (_has_succeeded(pod) and index_of(pod) in done)
        if counted and not _tells_failures(one, pod, pods):
            yield _let_go(pod)


def _tells_failures(one: Job, pod: Pod, pods: Sequence[Pod]) -> bool:
    """Whether the pod is the only one that tells how often its index has failed, and that still matters."""
    if one.spec.backoffLimitPerIndex is None or not _has_failed(one, pod) or _end_of(one) is not None or _is_decided(one):
        return False
    number = index_of(pod)
    if number in parse_indexes(one.status.completedIndexes) | parse_indexes(one.status.failedIndexes):
        return False
    ours = _failures(one, [pod]).get(number or 0, 0)
    return not any(other is not pod and index_of(other) == number and failures_before(other) >= ours for other in pods)


def _is_decided(one: Job) -> bool:
    return any(found is not None and found.status == "True" for type_ in _ENDS for found in (condition_of(one.status.conditions, type_),))


def _orphans_let_go(key: Key, one: Job | None, world: World) -> Iterator[Action]:
    """Pods whose Job is gone are held by nothing; that it is gone is asked for once more."""
    for pod in world.labelled(Pod, key.namespace, JOB_NAME, key.name):
        owner = pod.metadata.controller
        if TRACKING in pod.metadata.finalizers and (owner is None or (owner.kind == "Job" and (one is None or owner.uid != one.metadata.uid))):
            if owner is not None:
                yield Absent(_RESOURCE, key, owner.uid)
            yield _let_go(pod)


def _let_go(pod: Pod) -> Patch:
    metadata = pod.metadata
    left = [name for name in metadata.finalizers if name != TRACKING]
    patch: Document = {"metadata": {"finalizers": left or None}}
    return Patch(_PODS, Key(metadata.namespace, metadata.name), patch, uid=metadata.uid, resource_version=metadata.resourceVersion)


# ---- What is to run


def _on_its_way(one: Job, pods: Sequence[Pod], status: Document, world: World, last_failure: datetime | None) -> Iterator[Action]:
    """Pods made and taken away, and the conditions that follow; *status* is written into."""
    live = [pod for pod in pods if active(pod)]
    verdict = _verdict(one, live, pods, status, world)
    if verdict is not None:
        if not status.get("startTime"):
            status["startTime"] = text_of_time(world.now)
        type_, reason, message = verdict
        if not _has(status, type_):
            _set(status, type_, "True", reason, message, world.now)
            if type_ == "FailureTarget":
                yield Tell(one, "Warning", reason, message)
            else:
                yield Tell(one, "Normal", "Completed", "The Job is done")
        yield from (Delete(_PODS, Key(pod.metadata.namespace, pod.metadata.name), uid=pod.metadata.uid) for pod in live)
        return
    if one.spec.suspend:
        if not _has(status, "Suspended"):
            _set(status, "Suspended", "True", "JobSuspended", "The Job is suspended", world.now)
            yield Tell(one, "Normal", "Suspended", "The Job is suspended")
        status.pop("startTime", None)
        if one.status.startTime:
            status["startTime"] = None
        yield from _taken_away(live)
        return
    if _has(status, "Suspended"):
        _set(status, "Suspended", "False", "JobResumed", "The Job is resumed", world.now)
        yield Tell(one, "Normal", "Resumed", "The Job is resumed")
    if not status.get("startTime"):
        status["startTime"] = text_of_time(world.now)
    if one.spec.activeDeadlineSeconds is not None:
        yield After(max(0.0, one.spec.activeDeadlineSeconds - _seconds_since(status["startTime"], world.now)))
    yield from _to_size(one, pods, live, status, world, last_failure)


def _to_size(one: Job, pods: Sequence[Pod], live: Sequence[Pod], status: Document, world: World, last_failure: datetime | None) -> Iterator[Action]:
    parallelism = 1 if one.spec.parallelism is None else one.spec.parallelism
    if _is_indexed(one):
        yield from _to_indexes(one, pods, live, status, parallelism, world)
        return
    succeeded = _total(status, "succeeded")
    if one.spec.completions is None:
        wanted = min(len(live), parallelism) if succeeded else parallelism
    else:
        wanted = min(parallelism, max(0, one.spec.completions - succeeded))
    wanted -= min(wanted, _still_going(one, pods))
    if len(live) > wanted:
        order = sorted(live, key=lambda pod: (bool(pod.spec.nodeName), ready(pod), pod.metadata.creationTimestamp or ""))
        yield from _taken_away(order[: len(live) - wanted])
    elif len(live) < wanted:
        # Failed pods that somebody took away are in the count still; where none has succeeded, all of it is in a row.
        at_least = 0 if succeeded else _total(status, "failed")
        wait = _seconds_to_wait(one, pods, world.now, at_least=at_least, last=last_failure if at_least else None)
        if wait > 0:
            yield After(wait)
            return
        count = min(wanted - len(live), _BURST)
        yield from (Create(_PODS, _pod_of(one)) for _ in range(count))
        yield Tell(one, "Normal", "SuccessfulCreate", f"Made {count} pods")


def _still_going(one: Job, pods: Iterable[Pod]) -> int:
    """How many pods that are going hold their place, because they are replaced only when they are over."""
    if one.spec.podReplacementPolicy != "Failed":
        return 0
    return sum(1 for pod in pods if pod.metadata.deletionTimestamp is not None and not _has_succeeded(pod) and not _has_failed(one, pod))


def _to_indexes(one: Job, pods: Sequence[Pod], live: Sequence[Pod], status: Document, parallelism: int, world: World) -> Iterator[Action]:
    """One pod for each of the first indexes that are to be done, as many as may run at once."""
    over = parse_indexes(status.get("completedIndexes")) | parse_indexes(status.get("failedIndexes"))
    left = [number for number in range(one.spec.completions or 0) if number not in over]
    by_index: dict[int | None, list[Pod]] = {}
    for pod in sorted(live, key=lambda pod: (not ready(pod), not pod.spec.nodeName, pod.metadata.creationTimestamp or "", pod.metadata.name)):
        by_index.setdefault(index_of(pod), []).append(pod)
    wanted = set(left)
    running = sorted((number for number in by_index if number is not None and number in wanted), key=lambda number: (not ready(by_index[number][0]), number))
    room = max(0, min(parallelism, len(left)) - _still_going(one, pods))
    keep = set(running[:room])
    yield from _taken_away([pod for number, some in by_index.items() for place, pod in enumerate(some) if place or number not in keep])
    failures, waits, made = _failures(one, pods), [], 0
    going = {
        index_of(pod) for pod in pods if pod.metadata.deletionTimestamp is not None and one.spec.podReplacementPolicy == "Failed" and not _has_failed(one, pod)
    }
    for number in left:
        if len(keep) + made >= room or made >= _BURST:
            break
        if number in by_index or number in going:
            continue
        per_index = one.spec.backoffLimitPerIndex is not None
        wait = _seconds_to_wait(one, [pod for pod in pods if not per_index or index_of(pod) == number], world.now)
        if wait > 0:
            waits.append(wait)
            continue
        made += 1
        yield Create(_PODS, _pod_of(one, number, failures.get(number, 0)))
    if made:
        yield Tell(one, "Normal", "SuccessfulCreate", f"Made {made} pods")
    if waits:
        yield After(min(waits))


def _taken_away(pods: Iterable[Pod]) -> Iterator[Action]:
    """These do not count as failed."""
    for pod in pods:
        if TRACKING in pod.metadata.finalizers:
            yield _let_go(pod)
        yield Delete(_PODS, Key(pod.metadata.namespace, pod.metadata.name), uid=pod.metadata.uid)


def _pod_of(one: Job, number: int | None = None, failures: int = 0) -> Document:
    metadata, spec = template_metadata(one.spec.template), one.spec.template.spec
    metadata["labels"] = {**metadata.get("labels", {}), JOB_NAME: one.metadata.name}
    metadata["finalizers"] = [*metadata.get("finalizers", ()), TRACKING]
    prefix = f"{one.metadata.name}-"
    if number is not None:
        prefix = f"{prefix}{number}-"
        metadata["labels"][INDEX] = str(number)
        told = {INDEX: str(number)} | ({FAILURES: str(failures)} if one.spec.backoffLimitPerIndex is not None else {})
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **told}
        spec = _numbered(spec, f"{one.metadata.name}-{number}")
    metadata |= {"generateName": prefix, "namespace": one.metadata.namespace, "ownerReferences": references([owner_reference(one)])}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _numbered(spec: Document, hostname: str) -> Document:
    """The pod as one of an Indexed Job: its name on the network, and its number for its containers."""
    number = {"name": _NUMBER, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{INDEX}']"}}}
    numbered: Document = {"hostname": hostname} | spec
    for field in ("initContainers", "containers"):
        if spec.get(field):
            numbered[field] = [
                each if any(one.get("name") == _NUMBER for one in each.get("env") or ()) else {**each, "env": [*(each.get("env") or ()), number]}
                for each in spec[field]
            ]
    return numbered


def _seconds_to_wait(one: Job, pods: Iterable[Pod], now: datetime, *, at_least: int = 0, last: datetime | None = None) -> float:
    """How long the next pod waits after failures in a row, of which there were *at_least* so many, and the *last* one then."""
    ends = sorted(((_ended_at(pod, now), _has_succeeded(pod)) for pod in pods if _has_succeeded(pod) or _has_failed(one, pod)), reverse=True)
    failures = next((place for place, (_, good) in enumerate(ends) if good), len(ends))
    since: datetime | None = max([*([ends[0][0]] if failures else ()), *([last] if last else ())], default=None)
    if since is None:
        return 0.0
    delay: float = min(_FIRST_DELAY * 2 ** min(max(failures, at_least) - 1, 10), _LAST_DELAY)
    return delay - (now - since).total_seconds()


def _ended_at(pod: Pod, now: datetime) -> datetime:
    ends = [parse_time(one.state.terminated.finishedAt) for one in pod.status.containerStatuses or () if one.state.terminated]
    return max((end for end in ends if end), default=None) or parse_time(pod.metadata.deletionTimestamp) or parse_time(pod.metadata.creationTimestamp) or now


# ---- How it ends


def _verdict(one: Job, live: Sequence[Pod], pods: Sequence[Pod], status: Document, world: World) -> tuple[str, str, str] | None:
    """Whether it is decided how the Job ends: the condition, its reason and message."""
    for type_ in _ENDS:
        found = condition_of(one.status.conditions, type_)
        if found is not None and found.status == "True":
            return type_, found.reason, found.message
    for pod in pods:
        judgement = judgement_of(pod, one.spec.podFailurePolicy)
        if judgement.action == FAIL_JOB:
            return "FailureTarget", "PodFailurePolicy", judgement.message
    succeeded, failed = _total(status, "succeeded"), _total(status, "failed")
    limit = (6 if one.spec.backoffLimitPerIndex is None else _NO_LIMIT) if one.spec.backoffLimit is None else one.spec.backoffLimit
    if failed > limit or _restarted_too_often(one, live, limit):
        return "FailureTarget", "BackoffLimitExceeded", "More pods have failed than the backoffLimit allows"
    deadline = one.spec.activeDeadlineSeconds
    if deadline is not None and not one.spec.suspend and status.get("startTime") and _seconds_since(status["startTime"], world.now) >= deadline:
        return "FailureTarget", "DeadlineExceeded", "The Job was active for longer than its deadline"
    done_indexes, lost = parse_indexes(status.get("completedIndexes")), parse_indexes(status.get("failedIndexes"))
    rule = enough_succeeded(one.spec.successPolicy, done_indexes)
    if rule is not None:
        return "SuccessCriteriaMet", "SuccessPolicy", f"The rule {rule} of successPolicy is met"
    if one.spec.maxFailedIndexes is not None and len(lost) > one.spec.maxFailedIndexes:
        return "FailureTarget", "MaxFailedIndexesExceeded", "More indexes have failed than maxFailedIndexes allows"
    if lost and len(done_indexes | lost) >= (one.spec.completions or 0):
        return "FailureTarget", "FailedIndexes", "Some indexes have failed"
    wanted = one.spec.completions
    done = (succeeded > 0 and not live) if wanted is None else succeeded >= wanted
    return ("SuccessCriteriaMet", "CompletionsReached", "So many pods have succeeded as were wanted") if done else None


def _restarted_too_often(one: Job, live: Iterable[Pod], limit: int) -> bool:
    if one.spec.template.spec.get("restartPolicy") != "OnFailure":
        return False
    counts: list[int] = [each.restartCount for pod in live for each in (*(pod.status.initContainerStatuses or ()), *(pod.status.containerStatuses or ()))]
    return sum(counts) >= max(limit, 1)


def _end(status: Document, now: datetime) -> None:
    """What was decided is final once nothing runs and everything is counted."""
    if status["active"] or status["terminating"] or status.get("uncountedTerminatedPods"):
        return
    for decided, final in _ENDS.items():
        if _has(status, decided) and not _has(status, final):
            found = next(one for one in status["conditions"] if one["type"] == decided)
            _set(status, final, "True", found.get("reason", ""), found.get("message", ""), now)
            if final == "Complete":
                status["completionTime"] = text_of_time(now)


def _end_of(one: Job) -> Condition | None:
    """The condition by which the Job is finished."""
    found = (condition_of(one.status.conditions, type_) for type_ in _ENDS.values())
    return next((condition for condition in found if condition is not None and condition.status == "True"), None)


def _total(status: Document, word: str) -> int:
    """Those that are counted, and those that are about to be."""
    uncounted: dict[str, Any] = status.get("uncountedTerminatedPods") or {}
    return int(status.get(word, 0)) + len(uncounted.get(word) or ())


def _has(status: Document, type_: str) -> bool:
    return any(one["type"] == type_ and one.get("status") == "True" for one in status.get("conditions") or ())


def _set(status: Document, type_: str, value: str, reason: str, message: str, now: datetime) -> None:
    conditions = [Condition(**one) for one in status.get("conditions") or ()]
    status["conditions"] = [document_of(one) for one in with_condition(conditions, type_, value, reason, message, now)]


def _seconds_since(text: str, now: datetime) -> float:
    since = parse_time(text)
    return (now - since).total_seconds() if since else 0.0
