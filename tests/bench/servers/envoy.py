"""Envoy as a transcoder and a gRPC-Web filter in front of a gRPC server, and as a proxy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"


def configuration(*, json_port: int, web_port: int, grpc_port: int, descriptors: Path) -> str:
    """Envoy's bootstrap configuration, with nothing in it that is not needed."""
    transcoder = {
        "@type": f"{_EXTENSIONS}.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": str(descriptors),
        "services": ["bench.v1.BenchService"],
        "print_options": {"preserve_proto_field_names": True, "always_print_primitive_fields": True},
    }
    web = {"@type": f"{_EXTENSIONS}.http.grpc_web.v3.GrpcWeb"}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "60s"}}
    return json.dumps(
        {
            "static_resources": {
                "listeners": [
                    _listener(json_port, {"name": "transcoder", "typed_config": transcoder}, route),
                    _listener(web_port, {"name": "web", "typed_config": web}, route),
                ],
                "clusters": [_cluster(grpc_port)],
            }
        }
    )


def supabase(*, port: int, postgrest_port: int) -> str:
    """Envoy where Supabase's own gateway stands: PostgREST under /rest/v1."""
    route = {
        "match": {"prefix": "/rest/v1/"},
        "route": {"cluster": "upstream", "prefix_rewrite": "/", "timeout": "60s"},
    }
    cluster = {"name": "upstream", "type": "STATIC", "load_assignment": _endpoint(postgrest_port)}
    resources = {"listeners": [_listener(port, None, route)], "clusters": [cluster]}
    return json.dumps({"static_resources": resources})


def _listener(port: int, http_filter: dict[str, Any] | None, route: dict[str, Any]) -> dict[str, Any]:
    router = {"@type": f"{_EXTENSIONS}.http.router.v3.Router", "suppress_envoy_headers": True}
    filters = [http_filter] if http_filter else []
    manager = {
        "@type": f"{_EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "generate_request_id": False,
        "http_filters": [*filters, {"name": "router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "bench", "domains": ["*"], "routes": [route]}]},
    }
    return {
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _cluster(port: int) -> dict[str, Any]:
    options = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "name": "upstream",
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": _endpoint(port),
    }


def _endpoint(port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    return {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [endpoint]}]}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
