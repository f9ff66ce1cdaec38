"""Every case of data/vectors.json: what the best transcoders agree on, and where this one decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from protobuf import DescMethod, DescService, Message, Oneof
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

from gateway.transcoding import (
    HTTP_STATUS,
    BindingError,
    Match,
    Options,
    RequestMetadata,
    Router,
    StatusError,
    Template,
    TemplateError,
    Transcoder,
    encode_request,
    rule_bindings,
)
from gateway.transcoding.gen.google.api.http_pb import CustomHttpPattern, HttpRule
from tests.transcoding.asgi import Answer, call

pytestmark = pytest.mark.usefixtures("way")

DOCUMENT = json.loads((Path(__file__).parent / "data" / "vectors.json").read_text())
CASES = DOCUMENT["cases"]
STANDARD = ("get", "put", "post", "delete", "patch")


def cases(*kinds: str) -> pytest.MarkDecorator:
    chosen = [pytest.param(case, id=case["id"]) for case in CASES if case["kind"] in kinds]
    return pytest.mark.parametrize("case", chosen)


TESTED = {
    "template_ok", "template_error", "match", "encode", "rule_error", "status", "fieldmask",
    "body", "query", "http", "httpbody", "stream",
}  # fmt: skip


def test_no_case_is_left_out() -> None:
    assert len(CASES) == 118
    assert {case["kind"] for case in CASES} == TESTED
    assert all("reason" in case for case in CASES if "instead" in case or "refused" in case)


@pytest.fixture(scope="module")
def service(vectors_set: bytes) -> DescService:
    registry = FileDescriptorSet.from_binary(vectors_set).to_registry()
    found = registry.service("transcoding.vectors.Vectors")
    assert found is not None
    return found


def http_rule(rule: dict[str, Any]) -> HttpRule:
    kind = rule["http_method"]
    pattern: Any = Oneof("custom", CustomHttpPattern(kind=kind, path=rule["path"]))
    if kind.lower() in STANDARD:
        pattern = Oneof(kind.lower(), rule["path"])
    return HttpRule(
        selector=f"transcoding.vectors.Vectors.{rule['rpc']}",
        pattern=pattern,
        body=rule.get("body", ""),
        response_body=rule.get("response_body", ""),
    )


@cases("template_ok")
def test_template_ok(case: dict[str, Any]) -> None:
    template = Template.parse(case["template"])
    variables = {variable.field_path: [variable.start, variable.end] for variable in template.variables}
    assert list(template.segments) == case["expect"]["segments"]
    assert template.verb == case["expect"]["verb"]
    assert variables == case["expect"]["variables"]


@cases("template_error")
def test_template_error(case: dict[str, Any]) -> None:
    with pytest.raises(TemplateError) as caught:
        Template.parse(case["template"])
    assert 1 <= caught.value.column <= len(case["template"]) + 1


@cases("match")
def test_match(case: dict[str, Any]) -> None:
    for refused in case.get("refused", []):
        with pytest.raises(TemplateError):
            Template.parse(refused)
    rules = case["rules"]
    for ordered in (rules, rules[::-1]) if isinstance(rules, list) else (DOCUMENT["rule_sets"][rules],):
        router: Router[str] = Router()
        for http_method, template in ordered:
            router.add(http_method, template, template)
        match = router.match(case["method"], case["path"])
        if case["expect"]["template"] is None:
            assert match == ()
        else:
            assert match == Match(case["expect"]["template"], case["expect"]["variables"])


@cases("encode")
def test_encode(case: dict[str, Any], service: DescService) -> None:
    method = next(method for method in service.methods if method.name == "Values")
    (binding,) = rule_bindings(
        method, http_rule({"rpc": "Values", "http_method": "GET", "path": case["template"]})
    )
    message = method.input.type.from_json(json.dumps(case["message"]))
    path, _, query = encode_request(binding, message).target.partition("?")
    assert {"path": path, "query": query} == case["expect"]


@cases("rule_error")
def test_rule_error(case: dict[str, Any], service: DescService) -> None:
    method = next(method for method in service.methods if method.name == "Values")
    rule = HttpRule.from_json(json.dumps(case["rule"]))
    with pytest.raises(BindingError, match=r"transcoding\.vectors\.Vectors\.Values"):
        list(rule_bindings(method, rule))


@cases("status")
async def test_status(case: dict[str, Any], service: DescService) -> None:
    assert HTTP_STATUS[case["code"]] == case["expect"]["status"]
    rule = {"rpc": "Id", "http_method": "GET", "path": "/status"}
    answer, _ = await ask(
        service, {"rule": rule, "request": {"method": "GET", "target": "/status"}, "raises": case}
    )
    assert answer.status == case["expect"]["status"]
    assert answer.json()["code"] == case["code"]


@cases("fieldmask")
async def test_field_mask(case: dict[str, Any], service: DescService) -> None:
    rule = {"rpc": "UpdateDeep", "http_method": "PATCH", "path": "/deep", "body": "deep"}
    request = {"method": "PATCH", "target": "/deep", "body": case["body"]}
    answer, requests = await ask(service, {"rule": rule, "request": request})
    assert answer.status == 200, answer.body
    assert [message.update_mask.paths for message in requests] == [case["expect"]["update_mask"]]


@cases("body", "query", "http", "httpbody", "stream")
async def test_request(case: dict[str, Any], service: DescService) -> None:
    answer, requests = await ask(service, case)
    check(case.get("instead", case["expect"]), answer, requests, service, case)
    if case.get("lenient"):
        answer, requests = await ask(service, case, Options(ignore_unknown_parameters=True))
        check(case["expect"], answer, requests, service, case)


async def ask(
    service: DescService, case: dict[str, Any], options: Options | None = None
) -> tuple[Answer, list[Any]]:
    """Serve the case's rule, send its request, and give back what the handler got."""
    requests: list[Message] = []

    async def handler(method: DescMethod, request: Any, _metadata: RequestMetadata) -> Any:
        if "raises" in case:
            raise StatusError(case["raises"]["code"], case["raises"].get("message", ""))
        if "handler" in case:
            await asyncio.Event().wait()
        if isinstance(request, AsyncIterator):
            requests.extend([message async for message in request])
        else:
            requests.append(request)
        return method.output.type.from_json(json.dumps(case.get("answer", {})))

    app = Transcoder([service], handler, options, rules=[http_rule(case["rule"])])
    sent = case["request"]
    return await call(
        app, sent["method"], sent["target"], sent.get("body"), sent.get("headers", {})
    ), requests


def check(
    expect: dict[str, Any], answer: Answer, requests: list[Any], service: DescService, case: dict[str, Any]
) -> None:
    method = next(method for method in service.methods if method.name == case["rule"]["rpc"])
    assert answer.complete
    assert answer.status == expect.get("status", 200), answer.body
    if "message" in expect or "messages" in expect:
        wanted = expect.get("messages", [expect.get("message")])
        assert requests == [method.input.type.from_json(json.dumps(message)) for message in wanted]
    if "code" in expect:
        assert answer.json()["code"] == expect["code"]
    if "field" in expect:
        assert answer.violations == [expect["field"]]
    if "allow" in expect:
        assert answer.headers["allow"].split(", ") == expect["allow"]
    if "content_type" in expect:
        assert answer.headers["content-type"] == expect["content_type"]
    if "body" in expect:
        assert answer.json() == expect["body"]
