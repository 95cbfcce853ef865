# The images of Boceto's programs, docker build --target prepare|train|eval, and of an emulator of object storage to try
# them with, --target emulator. `make image` builds all four. A digest in PYTHON pins the base.
ARG PYTHON=python:3.11-slim
# What the trainer computes on: cpu or gpu.
ARG ACCELERATOR=cpu

FROM ${PYTHON} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/boceto
WORKDIR /src

# This project's wheel.
FROM builder AS wheel
COPY requirements/build.txt .
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes --requirement build.txt
COPY . .
RUN python -m hatchling build --target wheel --directory /wheels

# The libraries of each program, made anew only when its lock changes. TensorFlow's headers are for
# a compiler, and there is none.
FROM builder AS prepare-libraries
COPY requirements/prepare.txt .
RUN --mount=type=cache,target=/root/.cache/pip pip --python /opt/boceto install --require-hashes --requirement prepare.txt

FROM builder AS train-cpu-libraries
COPY requirements/train.txt .
RUN --mount=type=cache,target=/root/.cache/pip pip --python /opt/boceto install --require-hashes --requirement train.txt \
 && rm -r /opt/boceto/lib/python*/site-packages/tensorflow/include

FROM builder AS train-gpu-libraries
COPY requirements/gpu.txt .
RUN --mount=type=cache,target=/root/.cache/pip pip --python /opt/boceto install --require-hashes --requirement gpu.txt \
 && rm -r /opt/boceto/lib/python*/site-packages/tensorflow/include

FROM train-${ACCELERATOR}-libraries AS train-libraries

FROM builder AS eval-libraries
COPY requirements/eval.txt .
RUN --mount=type=cache,target=/root/.cache/pip pip --python /opt/boceto install --require-hashes --requirement eval.txt \
 && rm -r /opt/boceto/lib/python*/site-packages/tensorflow/include

FROM builder AS emulator-binary
COPY requirements/emulator.txt .
RUN --mount=type=cache,target=/root/.cache/pip pip --python /opt/boceto install --require-hashes --requirement emulator.txt
RUN cp "$(find /opt/boceto -name 'fake-gcs-server-linux-*')" /fake-gcs-server

# What the programs run in. Only /tmp need be writable; the caches of numba, XLA and CUDA are there.
FROM ${PYTHON} AS program
ENV PATH=/opt/boceto/bin:$PATH HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba CUDA_CACHE_PATH=/tmp/cuda PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /tmp
ENTRYPOINT ["boceto"]
CMD ["--help"]
LABEL org.opencontainers.image.title="Boceto" \
      org.opencontainers.image.description="Trains sketch recognisers: strokes to TFRecords, training, retrieval scores" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM program AS prepare
COPY --from=prepare-libraries /opt/boceto /opt/boceto
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip --python /opt/boceto install --no-cache-dir --no-deps /wheels/*
USER 10001:10001
ARG VERSION REVISION CREATED PYTHON
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" org.opencontainers.image.base.name="${PYTHON}"

FROM program AS train
COPY --from=train-libraries /opt/boceto /opt/boceto
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip --python /opt/boceto install --no-cache-dir --no-deps /wheels/*
USER 10001:10001
ARG VERSION REVISION CREATED PYTHON
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" org.opencontainers.image.base.name="${PYTHON}"

FROM program AS eval
COPY --from=eval-libraries /opt/boceto /opt/boceto
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip --python /opt/boceto install --no-cache-dir --no-deps /wheels/*
USER 10001:10001
ARG VERSION REVISION CREATED PYTHON
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" org.opencontainers.image.base.name="${PYTHON}"

FROM scratch AS emulator
COPY --from=emulator-binary /fake-gcs-server /fake-gcs-server
USER 10001:10001
ENTRYPOINT ["/fake-gcs-server"]
ARG CREATED
LABEL org.opencontainers.image.title="fake-gcs-server, for trying out Boceto" org.opencontainers.image.licenses="BSD-2-Clause" \
      org.opencontainers.image.created="${CREATED}"
