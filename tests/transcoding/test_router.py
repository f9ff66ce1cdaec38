from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transcoding import Match, RouteConflict, Router, Template, UriError
from gateway.transcoding.template import REST, STAR

SEGMENTS = ("a", "b", "c:v", "", "v")
METHODS = ("GET", "POST", "*")


@st.composite
def route_sets(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Routes over few names, so that they overlap a lot; no two of them equal."""
    routes: dict[tuple[str, str], None] = {}
    for _ in range(draw(st.integers(1, 8))):
        parts = draw(st.lists(st.sampled_from(["a", "b", "v", STAR]), min_size=1, max_size=4))
        if draw(st.booleans()):
            parts.append(REST)
        verb = draw(st.sampled_from(["", "", ":v", ":w"]))
        routes[draw(st.sampled_from(METHODS)), f"/{'/'.join(parts)}{verb}"] = None
    return list(routes)


PATHS = st.lists(
    st.sampled_from(["a", "b", "v", "", "a:v", "b:w", ":v", "x", "x:v:w"]), min_size=1, max_size=5
).map(lambda parts: "/" + "/".join(parts))


def reference(routes: list[tuple[str, str]], method: str, path: str) -> str | tuple[str, ...]:
    """The rules in words: every template is tried, and the most specific one is taken."""
    wanted = ["HEAD", "GET", "*"] if method == "HEAD" else [method, "*"]
    best: tuple[tuple[int, ...], int, str] | None = None
    allowed: set[str] = set()
    for http_method, text in routes:
        template = Template.parse(text)
        rank = rank_of(template, path)
        if rank is None:
            continue
        allowed.add(http_method)
        if http_method in wanted:
            candidate = (rank, wanted.index(http_method), text)
            if best is None or candidate < best:
                best = candidate
    if best is not None:
        return best[2]
    if allowed:
        allowed |= {"OPTIONS"} | ({"HEAD"} if "GET" in allowed else set())
    return tuple(sorted(allowed))


def rank_of(template: Template, path: str) -> tuple[int, ...] | None:
    """Smaller is more specific: a verb, then literals before * before ** segment by segment."""
    segments = path[1:].split("/") if path != "/" else []
    if template.verb:
        if not segments or not segments[-1].endswith(f":{template.verb}"):
            return None
        segments[-1] = segments[-1][: -len(template.verb) - 1]
    rank = [0 if template.verb else 1]
    pattern = list(template.segments)
    for index, wanted in enumerate(pattern):
        if wanted == REST:
            return (*rank, 2)
        if index >= len(segments):
            return None
        if wanted == STAR and segments[index]:
            rank.append(1)
        elif wanted == segments[index]:
            rank.append(0)
        else:
            return None
    return tuple(rank) if len(pattern) == len(segments) else None


@given(route_sets(), st.sampled_from(["GET", "HEAD", "POST", "PUT"]), PATHS)
def test_the_router_agrees_with_trying_every_template(
    routes: list[tuple[str, str]], method: str, path: str
) -> None:
    router: Router[str] = Router()
    for http_method, template in routes:
        router.add(http_method, template, template)
    match = router.match(method, path)
    assert (match if isinstance(match, tuple) else match.target) == reference(routes, method, path)


def test_the_order_of_rules_does_not_matter() -> None:
    routes = [("GET", "/a/b"), ("GET", "/a/*"), ("GET", "/a/**"), ("*", "/a/b"), ("GET", "/**:v")]
    for order in permutations(routes):
        router: Router[str] = Router()
        for method, template in order:
            router.add(method, template, f"{method} {template}")
        found = {path: router.match("GET", path) for path in ("/a/b", "/a/c", "/a", "/a/b:v")}
        assert {path: match.target for path, match in found.items() if not isinstance(match, tuple)} == {
            "/a/b": "GET /a/b",
            "/a/c": "GET /a/*",
            "/a": "GET /a/**",
            "/a/b:v": "GET /**:v",
        }


def test_a_conflict_names_both() -> None:
    router: Router[str] = Router()
    router.add("GET", "/a/{x}:v", "first rule")
    with pytest.raises(RouteConflict, match=r"GET.*first rule and second rule"):
        router.add("GET", "/a/{y=*}:v", "second rule")
    router.add("POST", "/a/{y=*}:v", "another method")
    router.add("GET", "/a/{y=*}:w", "another verb")
    router.add("GET", "/a/{y=**}:v", "another wildcard")


@pytest.mark.parametrize(("policy", "winner"), [("first", "one"), ("last", "two")])
@pytest.mark.parametrize("template", ["/a", "/{x}"])
def test_conflicts_can_be_decided_by_order(policy: str, winner: str, template: str) -> None:
    router: Router[str] = Router(on_conflict=policy)  # type: ignore[arg-type]
    router.add("GET", template, "one")
    router.add("GET", template, "two")
    match = router.match("GET", "/a")
    assert isinstance(match, Match)
    assert match.target == winner


def test_percent_encoding_is_decoded_once_and_after_routing() -> None:
    router: Router[str] = Router()
    router.add("GET", "/files/{name}", "one")
    router.add("GET", "/tree/{path=**}", "many")
    router.add("GET", "/caf%C3%A9/{x}:do%20it", "literal")
    assert router.match("GET", "/files/a%2Fb%252F") == Match("one", {"name": "a/b%2F"})
    assert router.match("GET", "/tree/a%2fb/c%20d") == Match("many", {"path": "a%2fb/c d"})
    assert router.match("GET", b"/files/\xc3\xa9") == Match("one", {"name": "é"})
    assert router.match("GET", "/files/é") == Match("one", {"name": "é"})
    assert router.match("GET", "/%66iles/x") == Match("one", {"name": "x"})
    assert router.match("GET", b"/caf\xc3\xa9/1:do%20it") == Match("literal", {"x": "1"})
    assert router.match("GET", "/caf%c3%a9/1:do%20it") == Match("literal", {"x": "1"})
    assert router.match("GET", "/files%2Fx") == ()


@pytest.mark.parametrize("path", ["/%", "/files/%2", "/files/%zz", "/nowhere/%", "/files/%FF", "/files/%C3"])
def test_a_malformed_path_is_an_error(path: str) -> None:
    router: Router[str] = Router()
    router.add("GET", "/files/{name}", "target")
    router.add("GET", "/tree/{name=**}", "target")
    with pytest.raises(UriError) as caught:
        router.match("GET", path)
    assert "%" not in str(caught.value).removesuffix("percent-encoding").replace("percent-", "")


@pytest.mark.parametrize(
    "path", ["", "*", "files/x", "http://x/files/x", "/files/", "/files/x/", "//files/x"]
)
def test_what_is_no_path_matches_nothing(path: str) -> None:
    router: Router[str] = Router()
    router.add("GET", "/files/{name}", "target")
    assert router.match("GET", path) == ()


def test_a_verb_that_is_not_of_this_path_is_text() -> None:
    router: Router[str] = Router()
    router.add("GET", "/things/{id}", "get")
    router.add("POST", "/things/{id}:cancel", "cancel")
    router.add("GET", "/urns/{urn}", "urn")
    assert router.match("POST", "/things/5:cancel") == Match("cancel", {"id": "5"})
    assert router.match("GET", "/things/5:cancel") == Match("get", {"id": "5:cancel"})
    assert router.match("GET", "/urns/urn:x:cancel") == Match("urn", {"urn": "urn:x:cancel"})
    assert router.match("PUT", "/things/5:cancel") == ("GET", "HEAD", "OPTIONS", "POST")


def test_a_path_of_many_segments_costs_no_more_than_its_routes() -> None:
    router: Router[str] = Router()
    router.add("GET", "/" + "/".join(["{a}", *"*" * 20]), "deep")
    for position in range(20):
        parts = ["*"] * 20
        parts[position] = "x"
        router.add("GET", "/" + "/".join(parts) + "/end", f"{position}")
    assert router.match("GET", "/" + "/".join(["x"] * 20)) == ()
    assert router.match("GET", "/x" * 5000) == ()
