"""What many objects have alike is kept once: labels, the fields that selectors ask for, and their values.

Of 150,000 pods these are more than half as large as the pods' own bytes, and a handful of them differ. What is shared is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

_MOST: Final = 16_384  # different things remembered at most; then it begins anew, and what comes next shares with what follows it
_NOTHING: Final[Mapping[str, str]] = {}


class Fields(msgspec.Struct, frozen=True, gc=False):
    """The values that an object is selected by, in the places that all objects of its kind have them in."""

    places: Mapping[str, int]
    values: tuple[str, ...]

    def get(self, name: str, default: str = "") -> str:
        """The value of a field."""
        place = self.places.get(name)
        return default if place is None else self.values[place]


NO_FIELDS: Final = Fields({}, ())


class Sharing:
    """Gives the first of what is equal."""

    __slots__ = ("_labels", "_places", "_texts")

    def __init__(self) -> None:
        self._labels: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}
        self._texts: dict[str, str] = {}
        self._places: dict[tuple[str, ...], Mapping[str, int]] = {}

    def labels(self, given: Mapping[str, str] | None) -> Mapping[str, str]:
        """The labels, as nobody else can change them."""
        if not given:
            return _NOTHING
        name = tuple(given.items())
        found = self._labels.get(name)
        if found is None:
            if len(self._labels) >= _MOST:
                self._labels.clear()
            found = self._labels[name] = dict(given)
        return found

    def fields(self, given: Mapping[str, str]) -> Fields:
        """The fields; their names are the same few for each kind."""
        if not given:
            return NO_FIELDS
        names = tuple(given)
        places = self._places.get(names)
        if places is None:
            places = self._places[names] = {name: place for place, name in enumerate(names)}
        return Fields(places, tuple(map(self.text, given.values())))

    def text(self, given: str) -> str:
        """The text; whatever stands in its place where no schema judged it is left as it is."""
        if type(given) is not str:
            return given
        found = self._texts.get(given)
        if found is None:
            if len(self._texts) >= _MOST:
                self._texts.clear()
            found = self._texts[given] = given
        return found
