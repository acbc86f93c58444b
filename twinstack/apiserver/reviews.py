"""Questions about who may what and who is who: they are asked by creating a review, answered at once, and not kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from twinstack.api import errors, kinds, objects
from twinstack.api.access import AccessReviewSpec, ResourceAttributes
from twinstack.api.errors import BadRequest, FieldProblem, ProblemType, Unauthorized
from twinstack.api.objects import Document, Key, view_of
from twinstack.api.resources import QUESTIONS, resource_of
from twinstack.api.times import text_of_time
from twinstack.apiserver import admission
from twinstack.apiserver.auth import Authenticator
from twinstack.apiserver.authorization import Authorizer, forbidden
from twinstack.apiserver.bodies import check_dry_run, check_types, document_of
from twinstack.apiserver.cache import Cache
from twinstack.apiserver.calls import Answer, Call, User
from twinstack.apiserver.requests import Request
from twinstack.apiserver.tokens import ACCOUNTS, ServiceAccountTokens
from twinstack.rules import node_access
from twinstack.rules.rbac import Attributes, Rule

_PODS: Final = resource_of(kinds.Pod)
_FILLED_IN: Final = frozenset(("managedFields",))


def _now() -> datetime:
    return datetime.now(UTC)


class Reviews:
    """Answers reviews, and TokenRequests."""

    def __init__(self, cache: Cache, authorizer: Authorizer, authenticator: Authenticator, tokens: ServiceAccountTokens) -> None:
        self._cache, self._authorizer, self._authenticator, self._tokens = cache, authorizer, authenticator, tokens

    @staticmethod
    def answers(request: Request) -> bool:
        """Whether a request is one of these."""
        return request.resource in QUESTIONS or request.sub == "token"

    def react(self, request: Request, call: Call, user: User) -> Answer:
        """The answer, with everything that was asked in it."""
        check_dry_run(request.query)
        if request.sub == "token":
            return self._token(request, call, user)
        resource = request.resource
        document = document_of(call, resource.api_version, resource.kind)
        check_types(resource, document)
        status: Document
        match resource.kind:
            case "SelfSubjectReview":
                status = {"userInfo": user.document()}
            case "TokenReview":
                status = self._whose(document)
            case "SelfSubjectRulesReview":
                status = self._rules(user, document)
            case _:
                status = self._may(request, document, user)
        document["metadata"] = {**document["metadata"], "creationTimestamp": text_of_time(_now())}
        document["status"] = status
        return Answer(201, objects.encode(document))

    # ---- who may what

    def _may(self, request: Request, document: Document, user: User) -> Document:
        kind = request.resource.kind
        spec = view_of(kinds.SubjectAccessReview, document).spec
        problems = []
        said = {name for name, value in document["metadata"].items() if value} - _FILLED_IN
        if said - ({"namespace"} if kind == "LocalSubjectAccessReview" else set()):
            problems.append(FieldProblem("metadata", ProblemType.INVALID, None, "must be empty, for a review is not kept"))
        if (spec.resourceAttributes is None) == (spec.nonResourceAttributes is None):
            detail = "exactly one of resourceAttributes and nonResourceAttributes must be there"
            field = "resourceAttributes" if spec.resourceAttributes is None else "nonResourceAttributes"
            problems.append(FieldProblem(f"spec.{field}", ProblemType.INVALID, None, detail))
        if kind != "SelfSubjectAccessReview":
            if not spec.user and not spec.groups:
                problems.append(FieldProblem("spec.user", ProblemType.INVALID, "", "at least one of user and groups must be there"))
            user = User(spec.user, spec.uid, tuple(spec.groups or ()), tuple((key, tuple(values)) for key, values in (spec.extra or {}).items()))
        if kind == "LocalSubjectAccessReview":
            if spec.nonResourceAttributes is not None:
                problems.append(FieldProblem("spec.nonResourceAttributes", ProblemType.INVALID, None, "a path is in no namespace"))
            elif not problems and spec.resourceAttributes is not None and spec.resourceAttributes.namespace != request.namespace:
                raise BadRequest(f"spec.resourceAttributes.namespace must be the namespace of the request, {request.namespace}")
        if problems:
            # As Kubernetes has it, the details name the group alone.
            raise errors.Invalid(f"{kind} is invalid: {', '.join(map(str, problems))}", problems=problems, group=request.resource.group)
        asked, selected = _asked(spec)
        verdict = self._authorizer.decide(user, asked, selected)
        return {"allowed": verdict.allowed, **({"reason": verdict.why} if verdict.why else {})}

    def _rules(self, user: User, document: Document) -> Document:
        namespace = view_of(kinds.SelfSubjectRulesReview, document).spec.namespace
        if not namespace:
            raise BadRequest("no namespace on request")
        rules: list[Rule] = []
        everything = Rule(frozenset("*"), frozenset("*"), frozenset("*"))
        if "AlwaysAllow" in self._authorizer.modes or "system:masters" in user.groups:
            rules += [everything, Rule(frozenset("*"), urls=frozenset("*"))]
        incomplete = False
        if "Node" in self._authorizer.modes and node_access.node_name(user.name, user.groups):
            rules += node_access.RULES
            incomplete = True  # which objects are the node's is not told by a rule
        rules += self._authorizer.policy.rules(user.name, user.groups, namespace)
        rules = list(dict.fromkeys(rules))
        return {
            "resourceRules": [rule.document() for rule in rules if rule.resources],
            "nonResourceRules": [rule.document() for rule in rules if rule.urls],
            "incomplete": incomplete,
            **({"evaluationError": "what belongs to a node depends on its pods"} if incomplete else {}),
        }

    # ---- who is who

    def _whose(self, document: Document) -> Document:
        spec = view_of(kinds.TokenReview, document).spec
        if not spec.token:
            raise BadRequest("token is required for TokenReview in authentication")
        audiences: Sequence[str] = spec.audiences or self._tokens.audiences
        try:
            user, meant = self._authenticator.review(spec.token, audiences)
        except Unauthorized:
            return {"user": {}, "error": "the token is nobody's, or not meant for these audiences"}
        return {"authenticated": True, "user": user.document(), "audiences": meant}

    def _token(self, request: Request, call: Call, user: User) -> Answer:
        key = Key(request.namespace, request.name)
        document = document_of(call, "authentication.k8s.io/v1", "TokenRequest")
        for field, value in (("name", key.name), ("namespace", key.namespace)):
            if document["metadata"].get(field) not in (None, "", value):
                raise BadRequest(f"the {field} of the provided object does not match the {field} sent on the request")
        reference = (document.get("spec") or {}).get("boundObjectRef") if isinstance(document.get("spec"), dict) else None
        pod = self._cache.collections[_PODS].items.get(Key(key.namespace, str(reference.get("name")))) if isinstance(reference, Mapping) else None
        answer = self._tokens.request(key, document, user)
        why = admission.token_refusal(user, key, document, pod.fields.get("spec.nodeName") if pod else None)
        if why:
            raise forbidden(user, Attributes("create", "", ACCOUNTS.plural, "token", key.namespace, key.name), why)
        return Answer(201, objects.encode(answer))


def _asked(spec: AccessReviewSpec) -> tuple[Attributes, Mapping[str, str]]:
    if spec.resourceAttributes is not None:
        wanted = spec.resourceAttributes
        name = wanted.name
        selected = _selected(wanted)
        if wanted.verb in ("list", "watch", "deletecollection"):
            name = name or selected.get("metadata.name", "")
        return Attributes(wanted.verb, wanted.group, wanted.resource, wanted.subresource, wanted.namespace, name), selected
    assert spec.nonResourceAttributes is not None
    return Attributes(spec.nonResourceAttributes.verb, path=spec.nonResourceAttributes.path or "/"), {}


def _selected(wanted: ResourceAttributes) -> Mapping[str, str]:
    """The fields that a question's selector wants to be one certain value."""
    requirements: Any = (wanted.fieldSelector or {}).get("requirements") or ()
    return {
        str(one.get("key")): str(one["values"][0])
        for one in requirements
        if isinstance(one, Mapping) and one.get("operator") == "In" and isinstance(one.get("values"), list) and len(one["values"]) == 1
    }
