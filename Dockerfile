# One image for server, worker and agent; `make setup`'s constraints pin every version.
FROM python:3.11-slim-bookworm
WORKDIR /app
ARG EXTRAS=host,server,train,postgres
ARG TORCH_INDEX=
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY elasticvit elasticvit
COPY server server
COPY device_agent device_agent
COPY android_bench android_bench
# An agent's image has no torch in its extras and stays small.
RUN case "$EXTRAS" in *train*) pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--index-url $TORCH_INDEX} torch==2.13.0 ;; esac \
 && pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]" \
 && useradd --create-home elasticvit && mkdir /data && chown elasticvit /data
USER elasticvit
ENV ELASTICVIT_HOME=/data ELASTICVIT_HOST=0.0.0.0
VOLUME /data
