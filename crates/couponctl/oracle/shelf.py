"""Dictionaries whose entries stand in a temporary file: a dump may be larger than memory."""

import pickle
import sqlite3
from collections.abc import Iterable, Iterator, MutableMapping
from itertools import count
from typing import Any

CACHE_KIB, ENTRIES_PER_TURN, NOTHING = 16 * 1024, 100, object()


class Shelves:
    """One temporary database for them all. It has no name, and is gone with the process."""

    def __init__(self) -> None:
        self.database = sqlite3.connect("", isolation_level=None)
        for setting in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self.database.execute(f"PRAGMA {setting}")
        self.database.execute("CREATE TABLE entries (shelf, key, value, PRIMARY KEY (shelf, key)) WITHOUT ROWID")
        self.database.execute("BEGIN")  # for good: what is on a shelf need not outlive anything
        self.numbers = count()

    def shelf(self) -> "Shelf":
        """A new one, empty."""
        return Shelf(self.database, next(self.numbers))


class Shelf(MutableMapping[Any, Any]):
    """A dictionary sorted by its keys: whole numbers, or texts. A value that is changed has to be put back."""

    def __init__(self, database: sqlite3.Connection, number: int) -> None:
        self.execute, self.number, self.length = database.execute, number, 0

    def get(self, key: int | str, default: Any = None) -> Any:
        if self.length == 0:
            return default
        try:
            query = "SELECT value FROM entries WHERE shelf = ? AND key = ?"
            entry = self.execute(query, (self.number, spelled(key))).fetchone()
        except OverflowError:  # no key has more than 64 bits
            return default
        return default if entry is None else pickle.loads(entry[0])

    def __contains__(self, key: object) -> bool:
        return self.get(key, NOTHING) is not NOTHING

    def __getitem__(self, key: int | str) -> Any:
        value = self.get(key, NOTHING)
        if value is NOTHING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: int | str, value: Any) -> None:
        if not self.added(key, value):
            query = "UPDATE entries SET value = ? WHERE shelf = ? AND key = ?"
            self.execute(query, (pickle.dumps(value), self.number, spelled(key)))

    def added(self, key: int | str, value: Any) -> bool:
        """Whether there was none."""
        entry = (self.number, spelled(key), pickle.dumps(value))
        added = self.execute("INSERT OR IGNORE INTO entries VALUES (?, ?, ?)", entry).rowcount
        self.length += added
        return added > 0

    def setdefault(self, key: int | str, default: Any = None) -> Any:
        return default if self.added(key, default) else self[key]

    def __delitem__(self, key: int | str) -> None:
        query = "DELETE FROM entries WHERE shelf = ? AND key = ?"
        removed = self.execute(query, (self.number, spelled(key))).rowcount
        if not removed:
            raise KeyError(key)
        self.length -= removed

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return (key for key, _ in self.items())

    def items(self) -> Iterator[tuple[Any, Any]]:  # type: ignore[override]
        """In the order of the keys. A few at a time: meanwhile other shelves may change."""
        query = "SELECT key, value FROM entries WHERE shelf = ? AND key > ? ORDER BY key LIMIT ?"
        last: Any = float("-inf")  # before every number, and numbers come before texts
        while entries := self.execute(query, (self.number, last, ENTRIES_PER_TURN)).fetchall():
            for key, value in entries:
                yield key if isinstance(key, int) else key.decode(errors="surrogatepass"), pickle.loads(value)
            last = entries[-1][0]

    def clear(self) -> None:
        self.execute("DELETE FROM entries WHERE shelf = ?", (self.number,))
        self.length = 0


def spelled(key: Any) -> float | bytes:
    """UTF-8 sorts as Python sorts texts; an outcome that nobody checked may name half of a surrogate pair."""
    if isinstance(key, str):
        return key.encode(errors="surrogatepass")
    if isinstance(key, int | float):
        return key
    raise TypeError(f"{key!r} is no key")


def side_by_side(
    one: Iterable[tuple[Any, Any]], other: Iterable[tuple[Any, Any]]
) -> Iterator[tuple[Any, Any | None, Any | None]]:
    """Each key with its value here and there; None where one has none. Both are sorted by key."""
    ones, others = iter(one), iter(other)
    left, right = next(ones, None), next(others, None)
    while left or right:
        if right is None or (left and left[0] < right[0]):
            yield *left, None
            left = next(ones, None)
        elif left is None or right[0] < left[0]:
            yield right[0], None, right[1]
            right = next(others, None)
        else:
            yield *left, right[1]
            left, right = next(ones, None), next(others, None)
