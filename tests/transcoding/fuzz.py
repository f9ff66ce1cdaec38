"""Fuzz targets for templates, paths and requests.

Each target takes bytes and raises only what is a fault of the library. A fuzzer
with coverage can call them as they are; the loop here mutates a few good inputs:
``python -m tests.transcoding.fuzz [count] [seed]``.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable

from gateway.transcoding import Options, Router, Template, TemplateError, UriError
from tests.transcoding.asgi import call
from tests.transcoding.compiling import PROTOS, compile_proto
from tests.transcoding.library import Library

ROUTES = ["/a/**", "/a/*/b:v", "/{x=a/*}/c/{y=**}:w", "/a/b/c", "/%41/{z}"]
REQUESTS = [
    b"GET /v1/shelves/1/books?page_size=3&tags=a&filter.nested.genre=GENRE_NOVEL\n",
    b'POST /v1/shelves/1/books?request_id=x\n{"displayTitle":"T","extra":{"a":[1,null,{"b":"\\u00e9"}]}}',
    b'PATCH /v1/shelves/1/books/2\n{"page_count":"7","published":"2021-01-01T00:00:00Z","cover":"YQ=="}',
    b'PUT /v1/shelves/1/books/2\n{"ratings":{"a":1},"flags":{"true":"x"},"person":"p","weight":1.5e3}',
    b'POST /v1/shelves/9/notes\n[{"text":"a"},{"text":"b"}]',
    b"POST /v1/shelves/1/books/2:text\n\x00\xff",
    b'POST /v1/echo\n[[[{"a":1e5}]]]',
    b"GET /v1/shelves/1:watch?count=2\n",
]
TOKENS = [
    b"{", b"}", b"[", b"]", b'"', b":", b",", b"%", b"%2F", b"\xff", b"\\u", b"NaN", b"1e999", b"/", b"**",
    b"&", b"=", b".", b"\0",
]  # fmt: skip


def template_target(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        template = Template.parse(text)
    except TemplateError as error:
        if not 1 <= error.column <= len(text) + 1:
            raise AssertionError(text) from error
        return
    if Template.parse(str(template)) != template:
        raise AssertionError(text)


def path_target(data: bytes) -> None:
    router: Router[str] = Router()
    for route in ROUTES:
        router.add("GET", route, route)
    try:
        router.match("GET", data)
    except UriError:
        return


def request_target(library: Library, runner: asyncio.Runner) -> Callable[[bytes], None]:
    """A target of method and target in one line, and a body: no answer may be a 5xx or incomplete."""

    async def ask(data: bytes) -> None:
        line, _, body = data.partition(b"\n")
        method, _, target = line.partition(b" ")
        answer = await call(library.app, method.decode("latin-1"), target, body)
        if not answer.complete or answer.status >= 500:
            raise AssertionError(data, answer.status, answer.body)

    return lambda data: runner.run(ask(data))


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        position = chance.randint(0, len(changed))
        match chance.randint(0, 3):
            case 0:
                changed[position:position] = chance.choice(TOKENS)
            case 1:
                del changed[position : position + chance.randint(1, 4)]
            case 2:
                changed[position : position + 1] = chance.randbytes(1)
            case _:
                changed[position:position] = changed[position : position + chance.randint(1, 20)]
    return bytes(changed)


def run(library: Library, count: int, seed: int) -> None:
    """Try `count` inputs on each target."""
    chance = random.Random(seed)
    with asyncio.Runner() as runner:
        request = request_target(library, runner)
        for _ in range(count):
            template_target(mutated(chance.choice(ROUTES).encode(), chance))
            path_target(mutated(chance.choice(ROUTES).encode(), chance))
            request(mutated(chance.choice(REQUESTS), chance))
            library.requests.clear()
            library.metadata.clear()


def main(arguments: list[str]) -> None:
    """Run, and say which seed it was."""
    count = int(arguments[0]) if arguments else 100_000
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    run(Library(compile_proto(PROTOS / "library.proto"), Options(max_body=100_000)), count, seed)


if __name__ == "__main__":
    main(sys.argv[1:])
