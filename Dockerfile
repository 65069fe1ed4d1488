# One image for API, worker and migrations; which of them it is, the command says: `gradq api`, `gradq worker`, …
# Build: docker compose build, or docker build [--build-arg TORCH_INDEX=…] -t gradq .

ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build

# The index that torch and torchvision are installed from: PyTorch's own for CPU wheels (its address: "Start Locally" on
# pytorch.org, compute platform CPU). Empty: pip's usual index, whose Linux wheels are the CUDA build. One image holds
# one of the two, never both: they would share a package name and mix their files.
ARG TORCH_INDEX=
# Beside `server`, of pyproject.toml's optional dependencies, comma-separated: onnx writes model.onnx, s3 keeps artifacts in a bucket.
ARG EXTRAS=onnx

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/gradq
WORKDIR /src

# Largest and rarest first: a change of the source below reuses these layers.
COPY constraints.txt pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/gradq/bin/python install -c constraints.txt \
        ${TORCH_INDEX:+--no-deps --index-url "$TORCH_INDEX"} torch torchvision
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["server"], sep="\n")' \
        > requirements.txt \
    && pip --python /opt/gradq/bin/python install -c constraints.txt -r requirements.txt

COPY README.md LICENSE ./
COPY api api
COPY gradq gradq
COPY shared shared
COPY worker worker
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/gradq/bin/python install -c constraints.txt ".[server${EXTRAS:+,$EXTRAS}]"


FROM python:${PYTHON}

# No build tools are left: the environment has no pip, and the base image loses its own.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore setuptools wheel pip \
    && groupadd --gid 10001 gradq \
    && useradd --uid 10001 --gid gradq --home-dir /var/lib/gradq --no-create-home --shell /usr/sbin/nologin gradq \
    # a new named volume takes over owner and mode of the folder that it is mounted on
    && install -d -o gradq -g gradq -m 0700 /var/lib/gradq /var/lib/gradq/artifacts /var/lib/gradq/data \
        /var/lib/gradq/uploads

COPY --from=build /opt/gradq /opt/gradq

ENV PATH=/opt/gradq/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    GRADQ_STATE_DIR=/var/lib/gradq \
    MPLCONFIGDIR=/var/lib/gradq/matplotlib

USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["gradq"]
CMD ["--help"]
