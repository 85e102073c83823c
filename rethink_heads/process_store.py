"""The store of keys through which processes of one command agree, and how they hear of each other's failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from rethink_heads.errors import UserError

LOST_CODE = 2

Value = TypeVar("Value")


class OtherProcessError(UserError):
    """Another process failed; it says why, and all end with its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class LostConnectionError(OtherProcessError):
    """The store cannot be reached: the machine or process that served it is gone, and may have said nothing."""


class Store(Protocol):
    """What is used of a ``torch.distributed.Store``."""

    def add(self, key: str, amount: int, /) -> int: ...
    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...


class OwnStore:
    """The store of a process that is alone."""

    def __init__(self) -> None:
        self._values: dict[str, int | str] = {}

    def add(self, key: str, amount: int) -> int:
        total = int(self._values.get(key, 0)) + amount
        self._values[key] = total
        return total

    def set(self, key: str, value: str) -> None:
        self._values[key] = value

    def get(self, key: str) -> bytes:
        return str(self._values[key]).encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self._values for key in keys)


class GuardedStore:
    """A store whose failure is told in a sentence.

    Raises:
        LostConnectionError: in every method, where whoever serves the store is gone.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, key: str, amount: int) -> int:
        return self._asked(lambda: self._store.add(key, amount))

    def set(self, key: str, value: str) -> None:
        self._asked(lambda: self._store.set(key, value))

    def get(self, key: str) -> bytes:
        return self._asked(lambda: self._store.get(key))

    def check(self, keys: list[str]) -> bool:
        return self._asked(lambda: self._store.check(keys))

    @staticmethod
    def _asked(question: Callable[[], Value]) -> Value:
        try:
            return question()
        except RuntimeError as error:  # torch.distributed's errors are such
            raise LostConnectionError(
                "the connection to the other processes is lost; run the same command again to go on",
                LOST_CODE,
            ) from error
