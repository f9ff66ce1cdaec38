"""Puts Swagger UI into the wheel, so that `/docs` needs no network and no further package."""

from __future__ import annotations

from importlib.metadata import distribution
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = ("LICENSE", "favicon-32x32.png", "swagger-ui-bundle.js", "swagger-ui.css")


class SwaggerUi(BuildHookInterface[Any]):
    """Takes the files from flask-swagger-ui, of which nothing else is used. A checkout finds them there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to a wheel, under gateway/_swagger_ui."""
        if version == "editable":
            return
        source = distribution("flask-swagger-ui")
        for name in FILES:
            path = source.locate_file(f"flask_swagger_ui/dist/{name}")
            build_data["force_include"][str(path)] = f"gateway/_swagger_ui/{name}"
