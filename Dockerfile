# All of Theorbo in one image, for trying it out and for the tests: compose.yaml tells who runs what.
FROM debian:bookworm-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# What is shared between services: the connection file and, as long as all are one user, the key pair.
RUN useradd --create-home theorbo \
    && install --directory --owner theorbo --mode 0700 /shared /home/theorbo/.local/state/theorbo

RUN python3 -m venv /opt/theorbo
COPY schemas /build/schemas
COPY broker /build/broker
COPY executor /build/executor
COPY task_runtime /build/task_runtime
COPY observer /build/observer
RUN cd /build && /opt/theorbo/bin/pip install --no-cache-dir --quiet \
    "./schemas[models,link]" ./broker "./task_runtime[agent]" ./executor ./observer

COPY examples/shell /examples/shell

ENV PATH=/opt/theorbo/bin:$PATH PYTHONUNBUFFERED=1
USER theorbo
WORKDIR /home/theorbo
CMD ["theorbo", "--help"]
