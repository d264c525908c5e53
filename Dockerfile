# Theorbo in two images from one file; compose.yaml tells who runs what.
#
#   docker build --target theorbo -t theorbo:local .         broker, observers: nothing but Theorbo
#   docker build --target theorbo-node -t theorbo-node:local .    login and compute nodes: MPI, ssh and the examples' packages as well
FROM debian:bookworm-slim AS python
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*


# Environments are made here, and only they go into the images: no pip, no caches, no sources.
FROM python AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir --quiet uv
ENV PATH=/opt/build/bin:$PATH UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=/opt/theorbo
RUN python3 -m venv --without-pip /opt/theorbo
COPY pyproject.toml /build/
COPY schemas /build/schemas
COPY broker /build/broker
COPY executor /build/executor
COPY task_runtime /build/task_runtime
COPY observer /build/observer
RUN cd /build && uv pip install --quiet --no-cache --no-sources \
    "./schemas[models,link]" ./broker "./task_runtime[agent]" ./executor ./observer


FROM build AS build-node
RUN cd /build && uv pip install --quiet --no-cache matplotlib mpi4py mpich numpy pooch scikit-image


# What both have in common.
FROM python AS machine
RUN useradd --create-home --uid 1000 theorbo \
    && install --directory --owner theorbo --mode 0700 /shared /home/theorbo/.local/state/theorbo
ENV PATH=/opt/theorbo/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /home/theorbo
CMD ["theorbo", "--help"]


FROM machine AS theorbo-node
RUN apt-get update \
    && apt-get install -y --no-install-recommends openssh-client openssh-server \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /etc/ssh/ssh_host_*
COPY --from=build-node /opt/theorbo /opt/theorbo
COPY deploy/compose/start-node /usr/local/bin/start-node
COPY deploy/compose/sshd_config /etc/theorbo/sshd_config
COPY deploy/compose/ssh_config /etc/ssh/ssh_config.d/theorbo.conf
COPY examples /examples
USER theorbo


FROM machine AS theorbo
COPY --from=build /opt/theorbo /opt/theorbo
USER theorbo
