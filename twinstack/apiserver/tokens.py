"""Tokens of ServiceAccounts: signed, meant for somebody, ending soon, and dying with what they are bound to.

Theory. A token is a JSON Web Token (RFC 7519) signed with ES256 or RS256 (RFC 7518). Its signature is verified once and
remembered until it ends; whether its ServiceAccount and the object it is bound to are still the very same is looked up with each
request, in memory, by uid.
"""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from twinstack.api import errors, kinds
from twinstack.api.errors import FieldProblem, ProblemType, Unauthorized
from twinstack.api.objects import Document, Key, encode, view_of
from twinstack.api.resources import Resource, resource_of
from twinstack.api.times import text_of_time
from twinstack.apiserver.cache import Cache, Stored
from twinstack.apiserver.calls import User
from twinstack.apiserver.settings import Settings, SettingsError
from twinstack.net.cidr import host_port
from twinstack.rules.rbac import SERVICE_ACCOUNT_PREFIX

ACCOUNTS: Final = resource_of(kinds.ServiceAccount)
_BOUND: Final = {kind.__name__: resource_of(kind) for kind in (kinds.Pod, kinds.Node, kinds.Secret)}
_EXTRA: Final = "authentication.kubernetes.io/"
SHORTEST_SECONDS, DEFAULT_SECONDS, LONGEST_SECONDS = 600, 3600, 1 << 32
CONFIGURATION_PATH: Final = "/.well-known/openid-configuration"
JWKS_PATH: Final = "/openid/v1/jwks"
LEEWAY_SECONDS: Final = 60  # a deleted pod's token still serves its last words
MOST_REMEMBERED, LONGEST_TOKEN = 10_000, 16 << 10
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class Reference(msgspec.Struct, frozen=True, omit_defaults=True):
    """An object by name and uid."""

    name: str = ""
    uid: str = ""


class Bound(msgspec.Struct, frozen=True, omit_defaults=True):
    """The private claims: whose token this is, and what it dies with."""

    namespace: str = ""
    serviceaccount: Reference = Reference()
    pod: Reference | None = None
    node: Reference | None = None
    secret: Reference | None = None


class Claims(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a token says (RFC 7519 section 4.1)."""

    aud: list[str] | str = []
    exp: int = 0
    iat: int = 0
    iss: str = ""
    jti: str = ""
    nbf: int = 0
    sub: str = ""
    bound: Bound = msgspec.field(name="kubernetes.io", default=Bound())

    @property
    def audiences(self) -> Sequence[str]:
        return [self.aud] if isinstance(self.aud, str) else self.aud


class _Header(msgspec.Struct):
    alg: str = ""
    kid: str = ""


_HEADER: Final = msgspec.json.Decoder(_Header)
_CLAIMS: Final = msgspec.json.Decoder(Claims)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


# ---- keys


class NamedKey(NamedTuple):
    """A public key with its name and its algorithm."""

    id: str
    algorithm: str
    key: PublicKey


def named(key: PublicKey) -> NamedKey:
    """A key's name is the hash of its encoding."""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return NamedKey(_b64(hashlib.sha256(encoded).digest()), "RS256" if isinstance(key, rsa.RSAPublicKey) else "ES256", key)


def read_keys(flag: str, path: str) -> list[PrivateKey | PublicKey]:
    """The keys in a PEM file; SettingsError when there is none that signs with ES256 or RS256."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{flag}={path} cannot be read: {error.strerror}") from error
    keys: list[PrivateKey | PublicKey] = []
    end = b"-----END "
    for block in text.split(b"-----BEGIN ")[1:]:
        pem = b"-----BEGIN " + block[: block.find(b"\n", block.find(end)) + 1 or None]
        if block.startswith(b"EC PARAMETERS"):
            continue
        try:
            if b"PRIVATE KEY" in block[:40]:
                found: Any = serialization.load_pem_private_key(pem, None)
            elif block.startswith(b"CERTIFICATE"):
                found = x509.load_pem_x509_certificate(pem).public_key()
            else:
                found = serialization.load_pem_public_key(pem)
        except (ValueError, TypeError) as error:
            raise SettingsError(f"{flag}={path} holds a key that cannot be read: {error}") from error
        if isinstance(found, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)) and not isinstance(found.curve, ec.SECP256R1):
            raise SettingsError(f"{flag}={path} holds a key of curve {found.curve.name}; one of prime256v1 (ES256), or an RSA key, would do")
        if not isinstance(found, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey, rsa.RSAPrivateKey, rsa.RSAPublicKey)):
            raise SettingsError(f"{flag}={path} holds a key that is neither EC nor RSA")
        keys.append(found)
    if not keys:
        raise SettingsError(f"{flag}={path} holds no key in PEM")
    return keys


def signing_key(path: str, own: Path | None) -> PrivateKey:
    """The key of ``--service-account-signing-key-file``, or one of our own making that is kept at *own*, or nowhere."""
    if path:
        key = read_keys("--service-account-signing-key-file", path)[0]
        if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
            raise SettingsError(f"--service-account-signing-key-file={path} holds a public key; signing takes the private one")
        return key
    if own is not None and own.exists():
        return signing_key(str(own), None)
    made = ec.generate_private_key(ec.SECP256R1())
    if own is not None:
        try:
            own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            own.touch(0o600)
            own.write_bytes(made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        except OSError as error:
            raise SettingsError(f"--cert-dir={own.parent} cannot be used: {error.strerror}") from error
    return made


class Keys:
    """One key to sign with, and those that a signature may be of."""

    def __init__(self, signer: PrivateKey, others: Sequence[PublicKey] = ()) -> None:
        self._signer = signer
        self.public = list({one.id: one for one in map(named, (signer.public_key(), *others))}.values())
        self._name = self.public[0]

    def sign(self, claims: Claims) -> str:
        head = _b64(encode({"alg": self._name.algorithm, "kid": self._name.id}))
        signed = f"{head}.{_b64(msgspec.json.encode(claims))}"
        if isinstance(self._signer, rsa.RSAPrivateKey):
            signature = self._signer.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        else:
            r, s = decode_dss_signature(self._signer.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
            signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return f"{signed}.{_b64(signature)}"

    def verify(self, token: str) -> Claims | None:
        """What a token says, when its signature is of one of these keys."""
        signed, _, end = token.rpartition(".")
        try:
            head, body = signed.split(".")
            header, claims, signature = _HEADER.decode(_unb64(head)), _CLAIMS.decode(_unb64(body)), _unb64(end)
        except (ValueError, msgspec.MsgspecError):
            return None
        for one in self.public:
            if header.alg == one.algorithm and header.kid in ("", one.id) and _is_signed(one.key, signed.encode(), signature):
                return claims
        return None

    def jwks(self) -> Document:
        """The public keys (RFC 7517)."""
        return {"keys": [_jwk(one) for one in self.public]}

    @property
    def algorithms(self) -> list[str]:
        return sorted({one.algorithm for one in self.public})


def _is_signed(key: PublicKey, data: bytes, signature: bytes) -> bool:
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        elif len(signature) != 64:
            return False
        else:
            plain = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
            key.verify(plain, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _jwk(one: NamedKey) -> Document:
    common: Document = {"use": "sig", "kid": one.id, "alg": one.algorithm}
    if isinstance(one.key, rsa.RSAPublicKey):
        numbers = one.key.public_numbers()
        size = (numbers.n.bit_length() + 7) // 8
        return {**common, "kty": "RSA", "n": _b64(numbers.n.to_bytes(size, "big")), "e": _b64(numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8, "big"))}
    point = one.key.public_numbers()
    return {**common, "kty": "EC", "crv": "P-256", "x": _b64(point.x.to_bytes(32, "big")), "y": _b64(point.y.to_bytes(32, "big"))}


# ---- tokens


class ServiceAccountTokens:
    """Gives tokens out and takes them back."""

    def __init__(
        self, keys: Keys, cache: Cache, *, issuers: Sequence[str], audiences: Sequence[str] = (), jwks_uri: str = "", now: Callable[[], float] = time.time
    ) -> None:
        self.keys = keys
        self.issuers = tuple(issuers)
        self.audiences = tuple(audiences) or self.issuers[:1]
        self._cache, self._now, self._jwks_uri = cache, now, jwks_uri
        self._verified: dict[str, Claims] = {}

    # ---- out

    def request(self, key: Key, document: Document, caller: User | None) -> Document:
        """Answer a TokenRequest for the ServiceAccount *key*; NotFound, Invalid or Conflict when it cannot be."""
        account = self._cache.collections[ACCOUNTS].items.get(key)
        if account is None:
            raise errors.not_found(ACCOUNTS.plural, key.name)
        spec = view_of(kinds.TokenRequest, document).spec
        seconds = DEFAULT_SECONDS if spec.expirationSeconds is None else spec.expirationSeconds
        if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
            detail = f"a token lasts from {SHORTEST_SECONDS} to {LONGEST_SECONDS} seconds"
            raise errors.invalid("TokenRequest", key.name, [FieldProblem("spec.expirationSeconds", ProblemType.INVALID, seconds, detail)])
        audiences = spec.audiences or list(self.audiences)
        bound: dict[str, Reference] = {}
        answered_reference: Document | None = None
        if spec.boundObjectRef is not None:
            reference = spec.boundObjectRef
            found = self._bound_object(key, reference.kind, reference.apiVersion, reference.name)
            if reference.uid and reference.uid != found.uid:
                detail = f"the reference names uid {reference.uid}, and the object that stands has {found.uid}: it was deleted and made anew"
                raise errors.conflict(_BOUND[reference.kind].plural, reference.name, detail)
            bound[reference.kind.lower()] = Reference(reference.name, found.uid)
            answered_reference = {"kind": reference.kind, "apiVersion": "v1", "name": reference.name, "uid": found.uid}
            if reference.kind == "Pod" and (node := found.fields.get("spec.nodeName")):
                standing = self._cache.collections[_BOUND["Node"]].items.get(Key("", node))
                bound["node"] = Reference(node, standing.uid if standing else "")
        now = int(self._now())
        claims = Claims(
            aud=audiences,
            exp=now + seconds,
            iat=now,
            iss=self.issuers[0],
            jti=str(uuid.uuid4()),
            nbf=now,
            sub=f"{SERVICE_ACCOUNT_PREFIX}{key.namespace}:{key.name}",
            bound=Bound(key.namespace, Reference(key.name, account.uid), **bound),
        )
        answered: Document = {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": answered_reference}
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": key.name, "namespace": key.namespace, "creationTimestamp": text_of_time(datetime.fromtimestamp(now, UTC))},
            "spec": answered,
            "status": {"token": self.keys.sign(claims), "expirationTimestamp": text_of_time(datetime.fromtimestamp(claims.exp, UTC))},
        }

    def _bound_object(self, account: Key, kind: str, api_version: str, name: str) -> Stored:
        resource = _BOUND.get(kind)
        if resource is None or api_version not in ("", "v1"):
            detail = f"a token is bound to one of {', '.join(f'v1 {one}' for one in _BOUND)}"
            raise errors.invalid("TokenRequest", account.name, [FieldProblem("spec.boundObjectRef.kind", ProblemType.INVALID, kind, detail)])
        found = self._cache.collections[resource].items.get(Key(account.namespace if resource.namespaced else "", name))
        if found is None:
            raise errors.not_found(resource.plural, name)
        if kind == "Pod" and found.fields.get("spec.serviceAccountName", "") not in ("", account.name):
            detail = f'pod "{name}" does not run as ServiceAccount "{account.name}"'
            raise errors.invalid("TokenRequest", account.name, [FieldProblem("spec.boundObjectRef.name", ProblemType.INVALID, name, detail)])
        return found

    # ---- in

    def is_ours(self, token: str) -> bool:
        """Whether this looks like a signed token at all."""
        return token.count(".") == 2

    def user(self, token: str, audiences: Sequence[str] = ()) -> tuple[User, list[str]]:
        """Whose token this is, and for whom of *audiences* (this server, unless said otherwise) it is meant; Unauthorized when it is no good."""
        claims = self._claims(token)
        now = self._now()
        if claims.iss not in self.issuers or now >= claims.exp or now < claims.nbf - LEEWAY_SECONDS:
            raise Unauthorized("Unauthorized")
        meant = [one for one in audiences or self.audiences if one in claims.audiences]
        bound = claims.bound
        if not meant or claims.sub != f"{SERVICE_ACCOUNT_PREFIX}{bound.namespace}:{bound.serviceaccount.name}":
            raise Unauthorized("Unauthorized")
        account = self._cache.collections[ACCOUNTS].items.get(Key(bound.namespace, bound.serviceaccount.name))
        if account is None or account.uid != bound.serviceaccount.uid:
            raise Unauthorized("Unauthorized")
        extra: list[tuple[str, tuple[str, ...]]] = [(_EXTRA + "credential-id", (f"JTI={claims.jti}",))] if claims.jti else []
        for kind, reference in (("Pod", bound.pod), ("Secret", bound.secret), ("Node", None if bound.pod else bound.node)):
            if reference is not None and not self._stands(_BOUND[kind], bound.namespace, reference, now):
                raise Unauthorized("Unauthorized")
        for word, reference in (("node", bound.node), ("pod", bound.pod)):
            if reference is not None:
                extra += [(f"{_EXTRA}{word}-name", (reference.name,)), (f"{_EXTRA}{word}-uid", (reference.uid,))]
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{bound.namespace}", "system:authenticated")
        return User(claims.sub, account.uid, groups, tuple(extra)), meant

    def _claims(self, token: str) -> Claims:
        claims = self._verified.get(token)
        if claims is None:
            verified = self.keys.verify(token) if len(token) <= LONGEST_TOKEN else None
            if verified is None:
                raise Unauthorized("Unauthorized")
            claims = verified
            if len(self._verified) >= MOST_REMEMBERED:
                self._verified.clear()
            self._verified[token] = claims
        return claims

    def _stands(self, resource: Resource, namespace: str, reference: Reference, now: float) -> bool:
        one = self._cache.collections[resource].items.get(Key(namespace if resource.namespaced else "", reference.name))
        if one is None or one.uid != reference.uid:
            return False
        if b'"deletionTimestamp":"' in one.data:
            deleted = one.document()["metadata"].get("deletionTimestamp")
            return not deleted or now < datetime.fromisoformat(deleted).timestamp() + LEEWAY_SECONDS
        return True

    # ---- discovery of the issuer

    def discovery(self, path: str) -> Mapping[str, Any] | None:
        """OpenID Connect Discovery 1.0, the part that verifiers of tokens read; None at any other path."""
        if path == JWKS_PATH:
            return self.keys.jwks()
        if path != CONFIGURATION_PATH:
            return None
        return {
            "issuer": self.issuers[0],
            "jwks_uri": self._jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": self.keys.algorithms,
        }


def tokens_of(settings: Settings, cache: Cache) -> ServiceAccountTokens:
    """What the settings say about tokens; SettingsError when a key file will not do."""
    directory = Path(settings.cert_dir) if settings.cert_dir else Path(settings.data_dir) / "pki" if settings.data_dir else None
    signer = signing_key(settings.service_account_signing_key_file, directory / "sa.key" if directory else None)
    others = [key for path in settings.service_account_key_files for key in read_keys("--service-account-key-file", path)]
    public = [key.public_key() if isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)) else key for key in others]
    issuers = settings.service_account_issuers
    if not issuers or not all(issuers):
        raise SettingsError("--service-account-issuer is empty; https://kubernetes.default.svc.cluster.local would do")
    jwks_uri = settings.service_account_jwks_uri
    if not jwks_uri and settings.advertise_address:
        jwks_uri = f"https://{host_port(settings.advertise_address, settings.secure_port)}{JWKS_PATH}"
    return ServiceAccountTokens(Keys(signer, public), cache, issuers=issuers, audiences=settings.api_audiences, jwks_uri=jwks_uri)
