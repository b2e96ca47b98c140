# An image with the environment of rayvos, for CPU or GPU:
#
#   docker build --build-arg BASE=IMAGE --build-arg EXTRA=gpu --tag rayvos .
#
# BASE is an image of Debian or Ubuntu with Python 3.11 or 3.12 and its venv module; for GPUs one
# with CUDA. Models, data and runs are not in the image: mount them (docs/cluster.md).
# Not built by this project, whose machines have no Docker: its steps are those of `make env`.
ARG BASE
FROM ${BASE}
ARG EXTRA=cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make g++ python3-dev python3-venv libgl1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/rayvos
COPY . .
RUN make env EXTRA=${EXTRA} && rm -rf ~/.cache
ENV PATH=/opt/rayvos/.venv/bin:$PATH
CMD ["python", "-m", "ray_jobs.train", "--help"]
