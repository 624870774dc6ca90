# Two images from one file:
#
#   docker build --target api    -t vision-xl-api .        HTTP; no torch
#   docker build --target worker -t vision-xl-worker .     the solver; torch from the package index carries CUDA itself
#
# For a small worker without CUDA, name PyTorch's index of CPU builds: --build-arg TORCH_INDEX=<that index>.

FROM python:3.11.14-slim-bookworm AS base
ENV PATH=/opt/vxl/bin:$PATH \
    PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_CONSTRAINT=/src/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN python -m venv /opt/vxl
# The same user in both images: they share the data volume, and a new volume takes its owner from here.
RUN useradd --uid 10001 --create-home vxl && install -d -o vxl -g vxl /data
WORKDIR /src

# What is needed, by what pyproject.toml says: this layer lasts until pyproject.toml or constraints.txt change.
FROM base AS needs
COPY pyproject.toml constraints.txt ./
RUN python - <<'EOF'
import pathlib
import tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
pathlib.Path("api.txt").write_text("\n".join(project["dependencies"]))
pathlib.Path("worker.txt").write_text("\n".join(project["optional-dependencies"]["worker"]))
EOF
RUN pip install -r api.txt

FROM needs AS worker-needs
ARG TORCH_INDEX=
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r worker.txt

# The package itself, built once, put on top of either set.
FROM base AS package
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY app app
COPY worker worker
RUN pip wheel --no-deps --wheel-dir /dist .

FROM needs AS api
RUN --mount=type=bind,from=package,source=/dist,target=/dist pip install --no-deps /dist/*.whl
ENV VXL_DATA_DIR=/data VXL_HOST=0.0.0.0 VXL_LOG_FORMAT=json
USER vxl
WORKDIR /data
VOLUME /data
EXPOSE 8000 9101
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
CMD ["vxl", "api"]

FROM worker-needs AS worker
RUN --mount=type=bind,from=package,source=/dist,target=/dist pip install --no-deps /dist/*.whl
ENV HF_HOME=/data/huggingface \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    NVIDIA_VISIBLE_DEVICES=all \
    VXL_DATA_DIR=/data \
    VXL_HOST=0.0.0.0 \
    VXL_LOG_FORMAT=json
USER vxl
WORKDIR /data
VOLUME /data
EXPOSE 9100
# Its metrics server is in the parent process, which answers as long as the worker is governed.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9100/metrics', timeout=4)"]
CMD ["python", "-m", "worker.main"]
