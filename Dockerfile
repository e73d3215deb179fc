# The image of convq: the command, three models, and nothing that builds or trains.
#
#   docker build -t convq .                        # CPU
#   docker build -t convq:cuda --target cuda .     # NVIDIA, CUDA 13: host driver r580 or later
#
# with BuildKit: DOCKER_BUILDKIT=1 where docker is older than 23, its plug-in buildx since then. The builder without it makes
# every stage, CUDA's gigabytes too, and then stops at --chmod.
#
# BASE is any image with Python 3.11 to 3.13 and pip. Where no package index is reached from inside a build, mount a folder
# of wheels and name it: --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/wheels.
ARG BASE=python:3.13-slim-trixie

# --------------------------------------------------------------------------------------------------------- to build with

FROM ${BASE} AS build
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
ENV PIP_NO_INDEX=${PIP_NO_INDEX} \
    PIP_FIND_LINKS=${PIP_FIND_LINKS} \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1
WORKDIR /build
COPY pyproject.toml constraints.txt ./
COPY deploy/image/dependencies.py deploy/image/cuda-constraints.txt deploy/image/

# What convq needs is a layer of its own: it is large and changes seldom. The tests of libraries and onnxruntime's tools for
# authors of models stay out (23 MB). Compiled here, since the root is read-only later; by hash, because layers do not
# promise to keep the times of files.
FROM build AS needs-cpu
RUN python3 deploy/image/dependencies.py cpu otel > requirements.txt \
    && python3 -m venv --without-pip /opt/convq \
    && pip --python /opt/convq/bin/python install -c constraints.txt -r requirements.txt \
    && find /opt/convq/lib -depth -type d \( -name tests -o -path '*/onnxruntime/transformers' \
        -o -path '*/onnxruntime/quantization' -o -path '*/onnxruntime/tools' \) -exec rm -r {} + \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/convq/lib

FROM build AS needs-cuda
RUN python3 deploy/image/dependencies.py cuda otel > requirements.txt \
    && python3 -m venv --without-pip /opt/convq \
    && pip --python /opt/convq/bin/python install -c constraints.txt -c deploy/image/cuda-constraints.txt -r requirements.txt \
    && find /opt/convq/lib -depth -type d \( -name tests -o -path '*/onnxruntime/transformers' \
        -o -path '*/onnxruntime/quantization' -o -path '*/onnxruntime/tools' \) -exec rm -r {} + \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/convq/lib

FROM build AS application
RUN python3 -m venv --without-pip /opt/convq \
    && python3 -m venv --without-pip /build/tools \
    && pip --python /build/tools/bin/python install -c constraints.txt hatchling
COPY README.md LICENSE ./
COPY service service
COPY models/lenet models/lenet
RUN pip --python /build/tools/bin/python wheel --no-build-isolation --no-deps --wheel-dir dist . \
    && pip --python /opt/convq/bin/python install --no-deps --prefix /application dist/convq-*.whl \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /application/lib

# ----------------------------------------------------------------------------------------------------------- to run with

FROM ${BASE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="convq" \
      org.opencontainers.image.description="CNN inference behind a Redis queue: one XADD in, exactly one answer out" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# The base brings an installer, which a service does not need and an intruder would like.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip /usr/local/lib/python3*/site-packages/pip-*.dist-info \
        /usr/local/lib/python3*/ensurepip \
    && groupadd --gid 10001 convq \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin convq
ENV PATH=/opt/convq/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    CONVQ_MODELS=/models
# A folder that is mounted on /models covers these: no rule is needed for which one wins.
COPY models/lenet /models/lenet
COPY models/digits_detector /models/digits_detector
COPY models/edges /models/edges
COPY models/gaussian_blur /models/gaussian_blur
COPY --chmod=755 deploy/image/probe /usr/local/bin/probe
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
# Alive, not ready: some start unhealthy containers anew, and a Redis that is away is no reason to start all workers anew.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["probe", "livez"]
ENTRYPOINT ["convq"]
CMD ["serve"]

FROM runtime AS cuda
ENV CONVQ_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=needs-cuda /opt/convq /opt/convq
COPY --from=application /application /opt/convq

# Last, and so the one that is built where no target is named.
FROM runtime AS cpu
COPY --from=needs-cpu /opt/convq /opt/convq
COPY --from=application /application /opt/convq
