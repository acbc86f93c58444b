"""What becomes of bootstrap tokens: one that has ended goes, and while one may sign, ``kube-public/cluster-info`` is signed with it.

Both run when they are named (``--controllers=*,bootstrapsigner,tokencleaner``), as upstream has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twinstack.api.kinds import ConfigMap, Secret
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.world import Action, After, Delete, Patch, Watch, World
from twinstack.rules.bootstrap_tokens import NAMESPACE, end_of, is_token, signature, token_of

INFO = Key("kube-public", "cluster-info")
SIGNED, SIGNATURE = "kubeconfig", "jws-kubeconfig-"  # in its data: what is signed, and before a token's id
_SECRETS, _CONFIG_MAPS = resource_of(Secret), resource_of(ConfigMap)


class TokenCleaner:
    """No Secret of a bootstrap token is there after the token's end."""

    name = "token-cleaner-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (Watch(Secret, _keys_of_token),)

    def decide(self, key: Key, world: World) -> list[Action]:
        one = world.get(Secret, key)
        ends = end_of(one) if one is not None and is_token(one) and one.metadata.deletionTimestamp is None else None
        if one is None or ends is None:
            return []
        left = (ends - world.now).total_seconds()
        return [After(left)] if left > 0 else [Delete(_SECRETS, key, uid=one.metadata.uid)]


class BootstrapSigner:
    """The kubeconfig in cluster-info has a signature by each token that may sign and has not ended, and no other."""

    name = "bootstrap-signer-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (Watch(ConfigMap, _keys_of_info), Watch(Secret, _keys_to_sign))

    def decide(self, key: Key, world: World) -> list[Action]:
        info = world.get(ConfigMap, key)
        content = (info.data or {}).get(SIGNED) if info is not None else None
        if info is None or content is None:
            return []
        found = [token for one in world.list(Secret, NAMESPACE) if one.metadata.deletionTimestamp is None and (token := token_of(one))]
        signing = [token for token in found if token.signs and (token.ends is None or token.ends > world.now)]
        wanted = {SIGNATURE + token.id: signature(token, content) for token in signing}
        present = {name: text for name, text in (info.data or {}).items() if name.startswith(SIGNATURE)}
        actions: list[Action] = []
        if wanted != present:
            changed = {name: text for name, text in wanted.items() if present.get(name) != text} | dict.fromkeys(present.keys() - wanted.keys())
            actions.append(Patch(_CONFIG_MAPS, key, {"data": changed}, uid=info.metadata.uid, resource_version=info.metadata.resourceVersion))
        soonest = min((token.ends for token in signing if token.ends is not None), default=None)
        return actions if soonest is None else [*actions, After((soonest - world.now).total_seconds())]


def _keys_of_token(before: Secret | None, after: Secret | None, world: World) -> Iterable[Key]:
    if after is not None and is_token(after):
        yield Key(NAMESPACE, after.metadata.name)


def _keys_to_sign(before: Secret | None, after: Secret | None, world: World) -> Iterable[Key]:
    if any(one is not None and is_token(one) for one in (before, after)):
        yield INFO


def _keys_of_info(before: ConfigMap | None, after: ConfigMap | None, world: World) -> Iterable[Key]:
    if after is not None and Key(after.metadata.namespace, after.metadata.name) == INFO:
        yield INFO
