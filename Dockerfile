# The gateway, as its locked dependencies and its wheel, and nothing that built them.
#
#   docker build -t n8n-gateway .
#
# Any image with Python 3.11 or newer and glibc will do: --build-arg PYTHON=python:3.12-slim
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements-setup.lock requirements-serve.lock ./
RUN python -m venv tools && tools/bin/pip install --require-hashes --only-binary :all: -r requirements-setup.lock \
    && python -m venv --without-pip /opt/n8n-gateway \
    && tools/bin/pip --python /opt/n8n-gateway install --require-hashes --only-binary :all: -r requirements-serve.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY gateway gateway
COPY supabase supabase
RUN tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && tools/bin/pip --python /opt/n8n-gateway install --no-deps --no-index dist/*.whl

FROM ${PYTHON}
RUN groupadd --system --gid 10001 n8n-gateway \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin n8n-gateway
COPY --from=build /opt/n8n-gateway /opt/n8n-gateway
# Nothing is written to disk: the root file system may be read-only.
ENV PATH=/opt/n8n-gateway/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0
USER 10001:10001
WORKDIR /
EXPOSE 8000 50051
# Liveness: where an orchestrator replaces what is unhealthy, a database that is away is to replace nobody.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/api/v1/health/live' % os.environ.get('HTTP_PORT', '8000'), timeout=4)"]
ENTRYPOINT ["n8n-gateway"]
CMD ["serve"]
