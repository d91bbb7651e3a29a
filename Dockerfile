# One image for server, worker and agent. The base image is pinned by its digest, every wheel by its hash (docker/*.lock).
#   docker build --build-arg PACKAGES=agent .     for an image that only measures: no torch, no database
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
WORKDIR /app
ARG PACKAGES=server
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
COPY docker/${PACKAGES}.lock ./
RUN pip install --require-hashes --no-deps -r "${PACKAGES}.lock"
# torch comes from PyTorch's index of CPU builds, one file for each processor: it is pinned by its version alone.
RUN if [ "$PACKAGES" = server ]; then pip install --no-deps --index-url "$TORCH_INDEX" torch==2.13.0; fi
COPY pyproject.toml README.md LICENSE ./
COPY elasticvit elasticvit
COPY server server
COPY device_agent device_agent
COPY android_bench android_bench
# The benchmark program is built here, because the root of a running container is read-only.
RUN pip install --no-deps --no-build-isolation . && cd / && rm -r /app \
 && python -c "from android_bench.build import build_host; print(build_host())" \
 && useradd --uid 10001 --create-home elasticvit \
 && install -d -o elasticvit -m 0700 /data /data/agents /data/agents/host
USER elasticvit
ENV ELASTICVIT_HOME=/data ELASTICVIT_HOST=0.0.0.0
WORKDIR /data
VOLUME /data
