"""Envoy in front of a gRPC server: its gRPC-JSON transcoder on one port, its gRPC-Web filter on another."""

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
    return json.dumps(
        {
            "static_resources": {
                "listeners": [
                    _listener(json_port, {"name": "transcoder", "typed_config": transcoder}),
                    _listener(web_port, {"name": "web", "typed_config": web}),
                ],
                "clusters": [_cluster(grpc_port)],
            }
        }
    )


def _listener(port: int, http_filter: dict[str, Any]) -> dict[str, Any]:
    router = {"@type": f"{_EXTENSIONS}.http.router.v3.Router", "suppress_envoy_headers": True}
    manager = {
        "@type": f"{_EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "generate_request_id": False,
        "http_filters": [http_filter, {"name": "router", "typed_config": router}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "bench",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "grpc", "timeout": "60s"}}],
                }
            ]
        },
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
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": "grpc",
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": {"cluster_name": "grpc", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
