"""The description of the API as it is served, and the API held to it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.checks import CHECKS

from gateway.doors.description import describe_api
from gateway.gen.n8ngateway.v1 import health_service_pb, internal_service_pb
from tests.conftest import RunningDev, start_dev, stop_dev

DOCUMENT: dict[str, Any] = json.loads(describe_api())
NOBODY = "00000000-0000-7000-8000-000000000000"
RESOURCE = re.compile(
    r"/(?:api/v1/|n8ngateway\.v1\.)(organization|workflow|execution)(?:s/\{id\}|Service/)", re.IGNORECASE
)
CHANGING = re.compile(r"/(Update|Delete|Create|Add|Cancel)")
OF_THE_PLATFORM = ("/{organization_id}/credits", "/refunds", "/AddCredits", "/RefundExecution")
PARAMETER = re.compile(r"\{([^}]*)\}")
LINK = re.compile(r'(?:src|href)="([^"]+)"')


def get(dev: RunningDev, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{dev.ready['http_url']}{path}", headers=headers, timeout=30)


def ids_in(dev: RunningDev) -> dict[str, str]:
    """Ids of what there is in it, by the names of the fields that hold them."""
    workflow = dev.ready["workflows"]["echo"]
    url = f"{dev.ready['http_url']}/api/v1/execute"
    run = httpx.post(url, json={"workflow_id": workflow}, headers=dev.bearer, timeout=30)
    return {
        "organization_id": dev.ready["organization_id"],
        "workflow_id": workflow,
        "execution_id": run.raise_for_status().json()["execution_id"],
    }


def test_document_is_served_as_it_is_printed(dev: RunningDev) -> None:
    served = get(dev, "/openapi.json")
    assert served.headers["content-type"] == "application/json"
    printed = subprocess.run(
        [sys.executable, "-m", "gateway", "openapi"], capture_output=True, check=True, timeout=60
    ).stdout
    assert served.content == printed
    OpenAPIV31SpecValidator(json.loads(printed)).validate()


def test_document_is_not_sent_again_while_it_holds(dev: RunningDev) -> None:
    tag = get(dev, "/openapi.json").headers["etag"]
    again = get(dev, "/openapi.json", **{"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_page_and_its_files_come_from_the_gateway_alone(dev: RunningDev) -> None:
    page = get(dev, "/docs")
    assert page.status_code == 200
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    links = LINK.findall(page.text)
    assert len(links) == 4
    for link in links:
        assert ":" not in link
        assert not link.startswith("//")
        file = get(dev, urljoin("/docs", link))
        assert (file.status_code, bool(file.content)) == (200, True)
    assert b"SwaggerUIBundle" in get(dev, "/docs/swagger-ui-bundle.js").content
    assert '"openapi.json"' in get(dev, "/docs/start.js").text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/docs/", 308),
        ("GET", "/docs/../pyproject.toml", 404),
        ("GET", "/docs/nothing.js", 404),
        ("POST", "/docs", 405),
        ("HEAD", "/docs", 200),
    ],
)
def test_nothing_else_is_served_beside_the_page(dev: RunningDev, method: str, path: str, status: int) -> None:
    url = httpx.URL(dev.ready["http_url"]).copy_with(raw_path=path.encode())
    assert httpx.request(method, url, timeout=30).status_code == status


def test_methods_ask_for_the_identity_that_the_document_says(dev: RunningDev) -> None:
    open_service = health_service_pb.desc().services[0].name
    internal = internal_service_pb.desc().services[0].name
    for path, item in DOCUMENT["paths"].items():
        for name, operation in item.items():
            signed: dict[str, list[str]] = {"api_key": [], "signature": []}
            wanted = [{"bearer": []}, signed, {"bearer": []} | signed]
            if operation["tags"][0].startswith(open_service):
                wanted = []
            elif operation["tags"][0].startswith(internal):
                wanted = [{"internal": []}]
            identities = [one for one in operation["security"] if one != {"platform": []}]
            assert identities == ([] if path.endswith(OF_THE_PLATFORM) and name == "post" else wanted)
            if name == "get" and not path.startswith("/n8ngateway."):
                url = dev.ready["http_url"] + re.sub(
                    r"\{[^}]*\}", "00000000-0000-7000-8000-000000000000", path
                )
                assert (httpx.get(url, timeout=30).status_code == 401) is bool(wanted)


def test_platform_token_is_good_for_what_the_document_says(dev: RunningDev) -> None:
    there = ids_in(dev)
    token = {"X-Platform-Token": dev.ready["platform_token"]}
    for template, item in DOCUMENT["paths"].items():
        path, operation = template, item.get("get")
        if operation is None or not operation["security"] or path.startswith("/n8ngateway."):
            continue
        resource = RESOURCE.match(path)
        ids = {**there, "id": there[f"{resource[1].lower()}_id"]} if resource else there
        for name in PARAMETER.findall(path):
            path = path.replace(f"{{{name}}}", ids.get(name, NOBODY))
        status = httpx.get(f"{dev.ready['http_url']}{path}", headers=token, timeout=30).status_code
        assert (status == 200) is ({"platform": []} in operation["security"]), (path, status)


SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
SCHEMA.config.seed = 1
SCHEMA.config.generation.update(modes=list(schemathesis.GenerationMode))
SCHEMA.config.phases.coverage.enabled = False
HELD_TO = CHECKS.get_by_names(
    ["response_schema_conformance", "content_type_conformance", "status_code_conformance"]
)
RUNNING = re.compile(r"/execute|/executions$|ExecutionService/(Execute|ExecuteStream|StartExecution)$")
UNAVAILABLE = {502, 503, 504}
"""What n8n does, to the operations that call it."""


@pytest.fixture(scope="module")
def own_dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDev]:
    """A gateway that may be filled with anything."""
    running = start_dev(tmp_path_factory.mktemp("described"))
    yield running
    stop_dev(running)


@pytest.fixture(scope="module")
def known(own_dev: RunningDev) -> dict[str, str]:
    ids = ids_in(own_dev)
    return ids | {re.sub("_id$", "Id", name): value for name, value in ids.items()}


def point_at(case: schemathesis.Case, known: dict[str, str]) -> None:
    """Ask for what there is and wait for it, so that more is seen than errors; but leave it usable."""
    for name in ("Connect-Timeout-Ms", "X-Platform-Token"):
        case.headers.pop(name, None)
    resource = RESOURCE.match(case.path)
    changes = case.method in ("PATCH", "DELETE") or CHANGING.search(case.path)
    ids = {**known, "id": known[f"{resource[1].lower()}_id"]} if resource and not changes else known
    parts: list[Any] = [case.path_parameters, case.query, case.body]
    for part in parts:
        if isinstance(part, dict):
            part.update({name: value for name, value in ids.items() if name in part})


@SCHEMA.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(
    case: schemathesis.Case, own_dev: RunningDev, known: dict[str, str]
) -> None:
    headers = {**own_dev.bearer, "X-N8N-Internal-Auth": own_dev.ready["internal_secret"]}
    point_at(case, known)
    response = case.call(base_url=own_dev.ready["http_url"], headers=headers, timeout=30)
    may_fail = response.status_code in UNAVAILABLE and RUNNING.search(case.path)
    assert response.status_code < 500 or may_fail, response.text
    case.validate_response(response, checks=HELD_TO)
