# The application as a MONAI Application Package. One file for every image: docs/container.md
#   make image                                CPU
#   make image ACCELERATOR=cuda13             NVIDIA GPU (TensorRT, TensorRT for RTX, ONNX Runtime)
#   make image BASE=...@sha256:...            another base, with Python 3.11 and nothing else
ARG BASE=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# --- What the packages are installed from: no other change makes them be installed again ---
FROM scratch AS inputs
# The wheels are there where .cache/image/wheels was filled (container/image_test.sh does).
COPY requirements*.lock requirements*.txt constraints.txt container/requirements-bill.lock \
    .cache/image/wheel[s]/* /

# --- Python packages, installed by hash; nothing of this stage but the venv is kept ---
FROM ${BASE} AS packages
ARG ACCELERATOR=cpu
# With ACCELERATOR=cuda13: another place than NVIDIA's own package index for TensorRT's libraries, and
# TENSORRT=no for an image without TensorRT (it has TensorRT for RTX and ONNX Runtime).
ARG GPU_INDEX=
ARG TENSORRT=yes
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/holoscan/venv
# The secrets are optional and reach no layer: pip's configuration, a CA bundle.
RUN --mount=type=bind,from=inputs,target=/inputs \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/run/ca_bundle.pem \
    set -eu; cd /inputs; \
    if [ -s /run/ca_bundle.pem ]; then export PIP_CERT=/run/ca_bundle.pem; fi; \
    from=""; \
    if ls ./*.whl >/dev/null 2>&1; then from="--no-index --find-links /inputs"; fi; \
    pip() { target="$1"; shift; /pip/bin/python -m pip --python "$target" install --quiet \
        --no-cache-dir --disable-pip-version-check "$@"; }; \
    pip /pip/bin/python $from --no-deps --require-hashes --only-binary :all: \
        -r requirements-bill.lock; \
    pip /opt/holoscan/venv/bin/python $from --no-deps --require-hashes --only-binary :all: \
        -r requirements.lock; \
    case "$ACCELERATOR" in \
    cpu) ;; \
    cuda13) pip /opt/holoscan/venv/bin/python $from --no-deps --require-hashes \
            -r requirements-gpu.lock; \
        if [ -n "$GPU_INDEX" ]; then export WHEEL_STUB_PIP_INDEX_URL="$GPU_INDEX"; fi; \
        if [ -n "${PIP_CERT:-}" ]; then export SSL_CERT_FILE="$PIP_CERT"; fi; \
        case "$TENSORRT" in \
        yes) pip /opt/holoscan/venv/bin/python $from --no-deps --require-hashes \
            -r requirements-tensorrt.lock ;; \
        no) ;; \
        *) echo "TENSORRT must be yes or no" >&2; exit 1 ;; \
        esac ;; \
    *) echo "ACCELERATOR must be cpu or cuda13" >&2; exit 1 ;; \
    esac; \
    # Holoscan looks for the CUDA runtime beside its own libraries, not where the wheel puts it; and
    # it makes its links to libraries at the first import, which must be root's.
    site="$(/opt/holoscan/venv/bin/python -c 'import site; print(site.getsitepackages()[0])')"; \
    ln -s ../../nvidia/cu13/lib/libcudart.so.13 "$site/holoscan/lib/libcudart.so.13"; \
    /opt/holoscan/venv/bin/python -W ignore -c "import holoscan.core"

# --- The application, its manifests, and what is known about every part of the image ---
FROM packages AS application
ARG ACCELERATOR=cpu
RUN --mount=type=bind,target=/context \
    set -eu; cd /context; export PYTHONDONTWRITEBYTECODE=1; \
    mkdir -p /image/opt/holoscan/app /image/opt/holoscan/models /image/opt/holoscan/docs \
        /image/var/holoscan/input /image/var/holoscan/output /image/var/holoscan/logs \
        /image/var/holoscan/engines /image/etc/holoscan; \
    cp -r app operators app.yaml /image/opt/holoscan/app/; \
    mkdir -p /image/opt/holoscan/app/deploy; \
    cp container/__main__.py /image/opt/holoscan/app/; \
    (cd deploy && find . -name '*.py' -exec cp --parents {} /image/opt/holoscan/app/deploy/ \;); \
    find /image -name __pycache__ -prune -exec rm -r {} +; \
    cp -r models/. /image/opt/holoscan/models/; \
    cp app.yaml /image/var/holoscan/app.yaml; \
    cp -r docs/. README.md /image/opt/holoscan/docs/; \
    /opt/holoscan/venv/bin/python -m container.manifest /image/etc/holoscan "$ACCELERATOR"; \
    /pip/bin/python -m container.bill --root / --out /image/opt/holoscan/docs \
        --site "$(/opt/holoscan/venv/bin/python -c 'import site; print(site.getsitepackages()[0])')"; \
    /opt/holoscan/venv/bin/python -m compileall -q /image/opt/holoscan/app; \
    chmod -R a+rX,go-w /image; \
    # Written by the user that the container runs as, whoever that is: empty folders to mount over.
    chmod 1777 /image/var/holoscan/input /image/var/holoscan/output /image/var/holoscan/logs \
        /image/var/holoscan/engines

# --- Everything but the application: also the base for monai-deploy package (docs/container.md) ---
FROM ${BASE} AS runtime
RUN groupadd --gid 10001 holoscan \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin holoscan
COPY --from=packages /opt/holoscan/venv /opt/holoscan/venv
COPY --from=application /image/opt/holoscan/docs /opt/holoscan/docs
COPY --chmod=755 container/entrypoint.py /var/holoscan/tools
ENV PATH=/opt/holoscan/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/holoscan/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HOLOSCAN_APPLICATION=/opt/holoscan/app \
    HOLOSCAN_INPUT_PATH=/var/holoscan/input \
    HOLOSCAN_OUTPUT_PATH=/var/holoscan/output \
    HOLOSCAN_WORKDIR=/var/holoscan \
    HOLOSCAN_MODEL_PATH=/opt/holoscan/models \
    HOLOSCAN_CONFIG_PATH=/var/holoscan/app.yaml \
    HOLOSCAN_APP_MANIFEST_PATH=/etc/holoscan/app.json \
    HOLOSCAN_PKG_MANIFEST_PATH=/etc/holoscan/pkg.json \
    HOLOSCAN_DOCS=/opt/holoscan/docs \
    HOLOSCAN_DOCS_PATH=/opt/holoscan/docs \
    HOLOSCAN_LOGS=/var/holoscan/logs \
    HOLOSCAN_LOGS_PATH=/var/holoscan/logs
WORKDIR /var/holoscan
USER 10001:10001
ENTRYPOINT ["/var/holoscan/tools"]

# --- The image ---
FROM runtime
ARG TITLE
ARG VERSION
ARG REVISION=
LABEL org.opencontainers.image.title="${TITLE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.description="Research use only. Not a medical device."
COPY --from=application /image/ /
