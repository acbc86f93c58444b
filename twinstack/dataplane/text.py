"""Tables and steps in nftables' own words, and back.

Rule of this file: what it prints, nft accepts and prints back alike; what it prints, it parses. It does not know
the rest of nftables' language, and says so (:class:`RulesetSyntaxError`) instead of guessing.

Two forms: a *script* of one command a line, which is what steps become and what is fed to the kernel; and a
*listing* (``table ip x { … }``), which is for people, and which is also how the kernel tells what it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from twinstack.dataplane.ruleset import (
    AddChain,
    AddElements,
    AddLearned,
    AddRule,
    AddSet,
    AddTable,
    Atom,
    Chain,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    DeleteTable,
    Dnat,
    Element,
    FlushChain,
    Goto,
    Hook,
    Key,
    Learned,
    Lookup,
    Map,
    Mark,
    Marked,
    Masquerade,
    Match,
    Rule,
    Set,
    Statement,
    Step,
    Steps,
    Table,
    Tag,
    Update,
    Value,
    Verdict,
    table_of,
)
from twinstack.net.errors import Error
from twinstack.net.family import FAMILIES, Family, Network

_ALL_BITS = 0xFFFFFFFF
_CLIENT_SEED = 0x7477696E
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}


class RulesetSyntaxError(Error):
    """A text is not a ruleset of the kind that this module prints."""


def _selector(word: str, facts_word: str) -> str:
    """How nft spells one of our selectors in a table of the family with this word."""
    if word in ("saddr", "daddr"):
        return f"{facts_word} {word}"
    if word in ("ct original saddr", "ct original daddr"):
        return f"ct original {facts_word} {word[12:]}"
    if word in ("client", "ct original client"):  # a source address of either family in 4 bytes
        return f"jhash {_selector(word.replace('client', 'saddr'), facts_word)} mod 4294967295 seed {_CLIENT_SEED:#x}"
    return {"l4proto": "meta l4proto", "dport": "th dport", "tag": "meta priority"}.get(word, word)


def _joined(words: Iterable[str], facts_word: str) -> str:
    return " . ".join(_selector(word, facts_word) for word in words)


def _statement(statement: Statement, word: str) -> str:
    if isinstance(statement, Match):
        operator = f" {statement.operator}" if statement.operator else ""
        return f"{_joined(statement.left, word)}{operator} {statement.right}"
    if isinstance(statement, Marked):
        return f"meta mark & {statement.bits:#010x} == {statement.bits:#010x}"
    if isinstance(statement, Mark):
        bits = f"| {statement.bits:#010x}" if statement.on else f"& {_ALL_BITS ^ statement.bits:#010x}"
        return f"meta mark set meta mark {bits}"
    if isinstance(statement, Lookup):
        return f"{_joined(statement.key, word)} vmap @{statement.map}"
    if isinstance(statement, Dnat):
        key = _joined(statement.key, word)
        if statement.ports:
            return f"dnat to {key} map @{statement.map}:{key} map @{statement.ports}"
        return f"dnat {word} to {key} map @{statement.map}"
    if isinstance(statement, Tag):
        return f"meta priority set {_joined(statement.key, word)} map @{statement.map}"
    if isinstance(statement, Masquerade):
        return "masquerade" + (f" to :{statement.ports}" if statement.ports else "") + (" fully-random" if statement.random else "")
    if isinstance(statement, Update):
        timeout = f" timeout {statement.timeout_seconds}s" if statement.timeout_seconds else ""
        return f"update @{statement.map} {{ {_joined(statement.key, word)}{timeout} : {_joined(statement.data, word)} }}"
    return verdict_text(statement)


def verdict_text(verdict: Verdict | Goto) -> str:
    """``drop``, ``goto pick-3`` …"""
    if isinstance(verdict, Goto):
        return f"{'jump' if verdict.jump else 'goto'} {verdict.chain}"
    return verdict.word


def rule_text(rule: Rule, family: Family) -> str:
    """A rule in a table of the family."""
    return " ".join(_statement(statement, family.facts.nft_family) for statement in rule)


def _declaration(one: Set | Map, word: str) -> list[str]:
    """The parts of a set's declaration, in the order in which nft lists them."""
    typeof = f"typeof {_joined(one.key, word)}"
    if isinstance(one, Map):
        typeof += f" : {_joined(one.data, word)}"
    parts = [typeof]
    if one.size:
        parts.append(f"size {one.size}")
    if one.flags:
        parts.append(f"flags {','.join(one.flags)}")
    if one.timeout_seconds:
        parts.append(f"timeout {one.timeout_seconds}s")
    return parts


def _hook(hook: Hook) -> str:
    return f"type {hook.type} hook {hook.hook} priority {hook.priority}; policy accept;"


def _key_text(key: Key) -> str:
    return " . ".join(map(str, key))


def _pair_text(key: Key, value: Value) -> str:
    text = " . ".join(map(str, key))
    if value is None:
        return text
    if isinstance(value, (Verdict, Goto)):
        return f"{text} : {verdict_text(value)}"
    return f"{text} : {' . '.join(map(str, value))}"


def _pair_texts(elements: Sequence[tuple[Key, Value]]) -> list[str]:
    """The same for very many of one set, whose keys are of one length and whose values are of one kind."""
    if not elements:
        return []
    key, value = elements[0]
    template = " . ".join(["%s"] * len(key))
    if value is None:
        return [template % key for key, _ in elements]
    if isinstance(value, tuple):
        template += " : " + " . ".join(["%s"] * len(value))
        return [template % (key + data) for key, data in elements]  # type: ignore[operator]
    words = {verdict: verdict_text(verdict) for verdict in {verdict for _, verdict in elements}}  # type: ignore[arg-type]
    return [f"{template % key} : {words[verdict]}" for key, verdict in elements]


def _learned_text(one: Learned) -> str:
    times = f"timeout {one.timeout_seconds}s expires {one.expires_seconds}s"
    return f"{_key_text(one.key)} {times}" + (f" : {_key_text(one.value)}" if isinstance(one.value, tuple) else "")


def interval_text(network: Network) -> str:
    """A network as an element of an interval set; one of a single address is that address, as nft lists it."""
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def script(steps: Steps) -> str:
    """The steps as commands of nft, one a line; an empty text when there are none."""
    word = steps.family.facts.nft_family
    return "".join(f"{_command(step, word, steps.table)}\n" for step in steps.steps)


def _command(step: Step, word: str, table: str) -> str:
    at = f"{word} {table}"
    if isinstance(step, AddTable):
        return f"add table {at}"
    if isinstance(step, DeleteTable):
        return f"delete table {at}"
    if isinstance(step, AddSet):
        noun = "map" if isinstance(step.set, Map) else "set"
        return f"add {noun} {at} {step.set.name} {{ {'; '.join(_declaration(step.set, word))}; }}"
    if isinstance(step, AddChain):
        return f"add chain {at} {step.chain}" + (f" {{ {_hook(step.hook)} }}" if step.hook else "")
    if isinstance(step, AddRule):
        return f"add rule {at} {step.chain} " + " ".join(_statement(statement, word) for statement in step.rule)
    if isinstance(step, FlushChain):
        return f"flush chain {at} {step.chain}"
    if isinstance(step, DeleteChain):
        return f"delete chain {at} {step.chain}"
    if isinstance(step, DeleteSet):
        return f"delete set {at} {step.set}"
    if isinstance(step, DeleteElements):
        return f"delete element {at} {step.set} {{ {', '.join(map(_key_text, step.keys))} }}"
    if isinstance(step, AddLearned):
        return f"add element {at} {step.set} {{ {', '.join(map(_learned_text, step.elements))} }}"
    return f"add element {at} {step.set} {{ {', '.join(_pair_texts(step.elements))} }}"


def listing(table: Table) -> str:
    """The table as ``nft list table`` would show it, elements sorted."""
    word = table.family.facts.nft_family
    lines = [f"table {word} {table.name} {{"]
    for one in table.sets.values():
        lines.append(f"\t{'map' if isinstance(one, Map) else 'set'} {one.name} {{")
        lines += [f"\t\t{part}" for part in _declaration(one, word)]
        held = table.elements.get(one.name)
        if held:
            pairs = sorted(_pair_text(key, value) for key, value in held.items())
            lines.append("\t\telements = { " + ",\n\t\t\t     ".join(pairs) + " }")
        lines += ["\t}", ""]
    for chain in table.chains.values():
        lines.append(f"\tchain {chain.name} {{")
        if chain.hook:
            lines.append(f"\t\t{_hook(chain.hook)}")
        lines += [f"\t\t{rule_text(rule, table.family)}" for rule in chain.rules]
        lines += ["\t}", ""]
    return "\n".join([*lines[:-1], "}", ""]) if len(lines) > 1 else f"table {word} {table.name} {{\n}}\n"


_WORD = r"[A-Za-z_][A-Za-z0-9_.-]*"
_TABLE = re.compile(rf"(\S+) ({_WORD})")
_SELECTORS = (
    *("saddr", "daddr", "l4proto", "dport", "tag", "client", "ct original saddr", "ct original daddr", "ct original proto-dst", "ct original client"),
    *("ct id", "ct state", "ct status", "fib daddr type", "fib saddr type", "iifname"),
)
_NUMGEN = re.compile(r"numgen random mod (\d+)(?= |$)")


def parse_rule(text: str, family: Family) -> Rule:
    """The rule that a line means; RulesetSyntaxError names what is not understood."""
    word = family.facts.nft_family
    statements: list[Statement] = []
    rest = text.strip()
    while rest:
        statement, rest = _parse_statement(rest, word)
        statements.append(statement)
        rest = rest.lstrip()
    if not statements:
        raise RulesetSyntaxError("a rule without statements")
    return tuple(statements)


def _parse_statement(text: str, word: str) -> tuple[Statement, str]:
    if found := re.match(r"(accept|drop|return|reject with tcp reset|reject)(?= |$)", text):
        return Verdict(found[1]), text[found.end() :]
    if found := re.match(rf"(goto|jump) ({_WORD})", text):
        return Goto(found[2], found[1] == "jump"), text[found.end() :]
    if found := re.match(r"meta mark & (0x[0-9a-f]+) == \1(?= |$)", text):
        return Marked(int(found[1], 16)), text[found.end() :]
    if found := re.match(r"meta mark set meta mark ([|&]) (0x[0-9a-f]+)", text):
        bits = int(found[2], 16)
        return (Mark(bits) if found[1] == "|" else Mark(_ALL_BITS ^ bits, on=False)), text[found.end() :]
    if found := re.match(r"masquerade(?: to :([0-9]+(?:-[0-9]+)?))?( fully-random)?(?= |$)", text):
        return Masquerade(found[1] or "", bool(found[2])), text[found.end() :]
    if found := re.match(rf"dnat {word} to (.+?) map @({_WORD})", text):
        return Dnat(_parse_selectors(found[1], word), found[2]), text[found.end() :]
    if found := re.match(rf"dnat to (.+?) map @({_WORD}):\1 map @({_WORD})", text):
        return Dnat(_parse_selectors(found[1], word), found[2], found[3]), text[found.end() :]
    if found := re.match(rf"meta priority set (.+?) map @({_WORD})", text):
        return Tag(_parse_selectors(found[1], word), found[2]), text[found.end() :]
    if found := re.match(rf"update @({_WORD}) {{ (.+?)(?: timeout (\w+))? : (.+?) }}", text):
        timeout = _parse_duration(found[3]) if found[3] else 0
        return Update(found[1], _parse_selectors(found[2], word), _parse_selectors(found[4], word), timeout), text[found.end() :]
    left, rest = _take_selectors(text, word)
    if found := re.match(rf"vmap @({_WORD})", rest):
        return Lookup(left, found[1]), rest[found.end() :]
    if found := re.match(r"(?:(!=|<) )?(\{ [^}]* \}|\"[^\"]*\"|\S+)", rest):
        return Match(left, found[2], found[1] or ""), rest[found.end() :]
    raise RulesetSyntaxError(f"not understood: {text!r}")


def _take_selectors(text: str, word: str) -> tuple[tuple[str, ...], str]:
    """The joined selectors at the start of a text, and the rest."""
    selectors: list[str] = []
    while True:
        selector, text = _take_selector(text, word)
        selectors.append(selector)
        if not text.startswith(". "):
            return tuple(selectors), text
        text = text[2:]


def _take_selector(text: str, word: str) -> tuple[str, str]:
    for ours in _SELECTORS:
        theirs = _selector(ours, word)
        if text == theirs or text.startswith(theirs + " "):
            return ours, text[len(theirs) :].lstrip()
    if found := re.match(r"(?:tcp|udp|sctp) dport(?= |$)", text):  # how nft lists th dport when it knows the protocol
        return "dport", text[found.end() :].lstrip()
    if found := _NUMGEN.match(text):
        return found[0], text[found.end() :].lstrip()
    raise RulesetSyntaxError(f"not understood: {text!r}")


def _parse_selectors(text: str, word: str) -> tuple[str, ...]:
    selectors, rest = _take_selectors(text, word)
    if rest:
        raise RulesetSyntaxError(f"not understood: {rest!r}")
    return selectors


def _parse_atom(text: str) -> Atom:
    return int(text) if text.isascii() and text.isdigit() else text


def _parse_key(text: str) -> Key:
    return tuple(_parse_atom(part) for part in text.strip().split(" . "))


def _parse_pair(text: str) -> tuple[Key, Value]:
    key, colon, value = text.strip().partition(" : ")
    if not colon:
        return _parse_key(key), None
    if found := re.fullmatch(rf"(goto|jump) ({_WORD})", value):
        return _parse_key(key), Goto(found[2], found[1] == "jump")
    return _parse_key(key), Verdict(value) if value in ("accept", "drop", "return") else _parse_key(value)


def _parse_learned(text: str) -> Learned:
    found = re.fullmatch(r"(.+?) timeout (\w+) expires (\w+)(?: : (.+))?", text)
    if not found:
        raise RulesetSyntaxError(f"not understood: {text!r}")
    return Learned(_parse_key(found[1]), _parse_key(found[4]) if found[4] else None, _parse_duration(found[2]), _parse_duration(found[3]))


def _parse_set(name: str, noun: str, parts: Sequence[str], word: str) -> Set | Map:
    key: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    size = timeout = 0
    for part in parts:
        verb, _, value = part.strip().partition(" ")
        if verb == "typeof":
            left, _, right = value.partition(" : ")
            key, data = _parse_selectors(left, word), (("verdict",) if right == "verdict" else _parse_selectors(right, word) if right else ())
        elif verb == "size":
            size = _parse_number(value)
        elif verb == "flags":
            flags = tuple(value.split(","))
        elif verb == "timeout":
            timeout = _parse_duration(value)
        else:
            raise RulesetSyntaxError(f"not understood: {part!r}")
    if noun == "map":
        return Map(name, key, data, flags, timeout, size)
    return Set(name, key, flags, timeout, size)


def _parse_number(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,10}", text):
        raise RulesetSyntaxError(f"not a number: {text!r}")
    return int(text)


def _parse_duration(text: str) -> int:
    if not re.fullmatch(r"(\d+[dhms])+", text):
        raise RulesetSyntaxError(f"not a duration: {text!r}")
    seconds = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    return sum(int(number) * seconds[unit] for number, unit in re.findall(r"(\d+)([dhms])", text))


def _parse_hook(text: str) -> Hook:
    found = re.fullmatch(r"type (\w+) hook (\w+) priority (-?\d+|[a-z]+)(?: ([+-]) (\d+))?; policy accept;", text.strip())
    if not found:
        raise RulesetSyntaxError(f"not understood: {text!r}")
    base = _PRIORITIES[found[3]] if found[3] in _PRIORITIES else _parse_number(found[3])
    offset = int(found[5]) * (-1 if found[4] == "-" else 1) if found[5] else 0
    return Hook(found[1], found[2], base + offset)


def _family_of_word(word: str) -> Family:
    for family in FAMILIES:
        if family.facts.nft_family == word:
            return family
    raise RulesetSyntaxError(f"not a table family of ours: {word!r}")


def parse_script(text: str) -> list[Steps]:
    """The steps that a script means, one value for each run of commands about the same table."""
    result: list[Steps] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        found = re.match(rf"(add|delete|flush) (table|set|map|chain|rule|element) (\S+) ({_WORD}) ?(.*)", line)
        if not found:
            raise RulesetSyntaxError(f"not understood: {line!r}")
        family = _family_of_word(found[3])
        step = _parse_command(found[1], found[2], found[5], family)
        if result and (result[-1].family, result[-1].table) == (family, found[4]):
            result[-1] = Steps(family, found[4], (*result[-1].steps, step))
        else:
            result.append(Steps(family, found[4], (step,)))
    return result


def _parse_command(verb: str, noun: str, rest: str, family: Family) -> Step:
    name, _, body = rest.partition(" ")
    inner = body.removeprefix("{ ").removesuffix(" }")
    if noun == "table":
        return AddTable() if verb == "add" else DeleteTable()
    if noun == "rule" and verb == "add":
        return AddRule(name, parse_rule(body, family))
    if noun == "chain":
        if verb == "add":
            return AddChain(name, _parse_hook(inner) if body else None)
        return DeleteChain(name) if verb == "delete" else FlushChain(name)
    if noun == "element" and verb == "delete":
        return DeleteElements(name, tuple(_parse_key(part) for part in inner.split(", ")))
    if noun == "element" and verb == "add" and " expires " in inner:
        return AddLearned(name, tuple(_parse_learned(part) for part in inner.split(", ")))
    if noun == "element" and verb == "add":
        return AddElements(name, tuple(_parse_pair(part) for part in inner.split(", ")))
    if noun in ("set", "map") and verb == "add":
        return AddSet(_parse_set(name, noun, [part for part in inner.split(";") if part.strip()], family.facts.nft_family))
    if noun in ("set", "map") and verb == "delete":
        return DeleteSet(name)
    raise RulesetSyntaxError(f"not understood: {verb} {noun}")


def parse_listing(text: str) -> Table:
    """The one table that a listing shows; expiry times of dynamic elements are left out."""
    lines = iter(text.splitlines())
    head = re.fullmatch(rf"table (\S+) ({_WORD}) {{", next(lines, "").rstrip())
    if not head:
        raise RulesetSyntaxError("a listing starts with 'table FAMILY NAME {'")
    family = _family_of_word(head[1])
    sets: list[Set | Map] = []
    chains: list[Chain] = []
    elements: list[Element] = []
    for line in lines:
        if found := re.fullmatch(rf"\t(set|map|chain) ({_WORD}) {{", line.rstrip()):
            body = _body(lines)
            if found[1] == "chain":
                chains.append(_parse_chain(found[2], body, family))
            else:
                one, held = _parse_listed_set(found[2], found[1], body, family)
                sets.append(one)
                elements += held
        elif line.strip() not in ("", "}"):
            raise RulesetSyntaxError(f"not understood: {line!r}")
    return table_of(family, head[2], chains, sets, elements)


def _body(lines: Iterator[str]) -> list[str]:
    body: list[str] = []
    for line in lines:
        if line.rstrip() == "\t}":
            return body
        body.append(line.strip())
    raise RulesetSyntaxError("a block without its end")


def _parse_chain(name: str, body: Sequence[str], family: Family) -> Chain:
    hook = _parse_hook(body[0]) if body and body[0].startswith("type ") else None
    return Chain(name, tuple(parse_rule(line, family) for line in body[1 if hook else 0 :]), hook)


def _parse_listed_set(name: str, noun: str, body: Sequence[str], family: Family) -> tuple[Set | Map, list[Element]]:
    start = next((i for i, line in enumerate(body) if line.startswith("elements = {")), len(body))
    one = _parse_set(name, noun, body[:start], family.facts.nft_family)
    inner = " ".join(body[start:]).removeprefix("elements = {").removesuffix("}").strip()
    inner = re.sub(r" (?:timeout|expires) (?:\d+[a-z]+)+", "", inner)
    pairs = [_parse_pair(part) for part in inner.split(",")] if inner else []
    return one, [(name, key, value) for key, value in pairs]
