"""Which method of the API a name means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from difflib import get_close_matches

from protobuf import DescMethod

from gateway.rpc.api import SERVICES
from gateway.transcoding import Binding, service_bindings

METHODS = tuple(method for service in SERVICES for method in service.methods)

_PACKAGE = "n8ngateway.v1."


class UnknownMethod(Exception):
    """No method has that name, or several have; the message says which are meant."""


def find_method(name: str) -> DescMethod:
    """The method of a name: `Execute`, `ExecutionService/Execute`, with its package or without, in any case.

    Raises UnknownMethod.
    """
    wanted = name.strip("/").removeprefix(_PACKAGE).replace(".", "/").lower()
    known: dict[str, list[DescMethod]] = defaultdict(list)
    for method in METHODS:
        known[method.name.lower()].append(method)
        known[full_name(method).lower()].append(method)
    match known.get(wanted, []):
        case [method]:
            return method
        case []:
            near = {full_name(m): None for close in get_close_matches(wanted, known) for m in known[close]}
            meant = f": is {' or '.join(near)} meant?" if near else "; `n8n-gateway call --list` shows all"
            raise UnknownMethod(f"there is no method {name}{meant}")
        case several:
            raise UnknownMethod(f"{name} is of several services: {', '.join(map(full_name, several))}")


def full_name(method: DescMethod) -> str:
    """`Service/Method`."""
    return f"{method.parent.name}/{method.name}"


def completions(begun: str) -> Iterator[str]:
    """The names that a shell completes to: of methods, and of services with them after a slash."""
    names = [full_name(method) if "/" in begun else method.name for method in METHODS]
    return (name for name in names if name.lower().startswith(begun.lower()))


def rest_binding(method: DescMethod) -> Binding:
    """The method's own rule for REST, not one of its additional ones."""
    return next(b for b in service_bindings([method.parent]) if b.method is method and not b.additional)
