"""What names may look like: DNS labels and subdomains, qualified names, label values, port names.

Each function answers why a text will not do, or ``None`` when it will. Sources: RFC 1123 section 2.1, RFC 1035 section
2.3.1, RFC 6335 section 5.1, and the Kubernetes documentation "Object Names and IDs" and "Labels and Selectors".
"""

from __future__ import annotations

import re
from functools import lru_cache

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+\Z")
_PORT = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_ENV = re.compile(r"[ -<>-~]+\Z")

LABEL_LENGTH, SUBDOMAIN_LENGTH, PORT_LENGTH = 63, 253, 15

NameProblem = str | None


def label_problem(name: str) -> NameProblem:
    """Why this is no RFC 1123 label."""
    if len(name) > LABEL_LENGTH:
        return f"must be no more than {LABEL_LENGTH} characters"
    if not _LABEL.match(name):
        return "must be lower case letters, digits and '-', beginning and ending with a letter or digit (RFC 1123), such as 'my-name' or '1-name'"
    return None


def label_1035_problem(name: str) -> NameProblem:
    """Why this is no RFC 1035 label, which begins with a letter."""
    if len(name) > LABEL_LENGTH:
        return f"must be no more than {LABEL_LENGTH} characters"
    if not _LABEL_1035.match(name):
        return "must be lower case letters, digits and '-', beginning with a letter and ending with a letter or digit (RFC 1035), such as 'my-name'"
    return None


def subdomain_problem(name: str) -> NameProblem:
    """Why this is no RFC 1123 subdomain."""
    if len(name) > SUBDOMAIN_LENGTH:
        return f"must be no more than {SUBDOMAIN_LENGTH} characters"
    if not _SUBDOMAIN.match(name):
        return "must be lower case letters, digits, '-' and '.', each part beginning and ending with a letter or digit (RFC 1123), such as 'example.com'"
    return None


@lru_cache(maxsize=1024)  # there are few, and they are used again and again
def qualified_problem(name: str) -> NameProblem:
    """Why this is no qualified name: an optional DNS subdomain and a slash, then up to 63 characters."""
    prefix, slash, last = name.rpartition("/")
    if "/" in prefix:
        return "must have at most one '/'"
    if slash and not prefix:
        return "the part before '/' must not be empty"
    if slash and (problem := subdomain_problem(prefix)):
        return f"the part before '/' {problem}"
    if not last:
        return "the name part must not be empty"
    if len(last) > LABEL_LENGTH:
        return f"the name part must be no more than {LABEL_LENGTH} characters"
    if not _QUALIFIED.match(last):
        return "the name part must be letters, digits, '-', '_' and '.', beginning and ending with a letter or digit, such as 'example.com/MyName'"
    return None


@lru_cache(maxsize=1024)
def label_value_problem(value: str) -> NameProblem:
    """Why this is no label value."""
    if len(value) > LABEL_LENGTH:
        return f"must be no more than {LABEL_LENGTH} characters"
    if value and not _QUALIFIED.match(value):
        return "must be empty, or letters, digits, '-', '_' and '.', beginning and ending with a letter or digit, such as 'my_value'"
    return None


def port_name_problem(name: str) -> NameProblem:
    """Why this is no service name of RFC 6335: at most 15 characters, at least one letter, no '--'."""
    if len(name) > PORT_LENGTH:
        return f"must be no more than {PORT_LENGTH} characters"
    if not _PORT.match(name):
        return "must be lower case letters, digits and '-', beginning and ending with a letter or digit (RFC 6335), such as 'http'"
    if not any(c.isalpha() for c in name):
        return "must contain at least one letter"
    if "--" in name:
        return "must not contain two hyphens in a row"
    return None


def port_number_problem(number: int) -> NameProblem:
    """Why this is no port number."""
    return None if 1 <= number <= 65535 else "must be between 1 and 65535"


def config_key_problem(key: str) -> NameProblem:
    """Why this is no key of a ConfigMap or Secret."""
    if len(key) > SUBDOMAIN_LENGTH:
        return f"must be no more than {SUBDOMAIN_LENGTH} characters"
    if not _CONFIG_KEY.match(key):
        return "must be letters, digits, '-', '_' and '.', such as 'key.name'"
    if key == "." or key.startswith(".."):
        return "must be neither '.' nor begin with '..'"
    return None


def environment_name_problem(name: str) -> NameProblem:
    """Why this is no name of an environment variable: printable ASCII without '='."""
    if not _ENV.match(name):
        return "must be printable ASCII characters other than '='"
    return None


def path_segment_problem(name: str) -> NameProblem:
    """Why this cannot be one step of a URL path."""
    if name in (".", ".."):
        return "must be neither '.' nor '..'"
    if "/" in name or "%" in name:
        return "must contain neither '/' nor '%'"
    return None
