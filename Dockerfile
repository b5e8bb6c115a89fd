# The images of docker-compose.yml, one target each:
#   docker build --target agent -t mailboat-agent .
#   docker build --target controller -t mailboat-controller .
#   docker build --target authority -t mailboat-authority .
# In each, what others wrote is a layer of its own below ours: a change of our code installs, stores
# and ships nothing of it again.
FROM debian:bookworm-20251020-slim AS python
RUN apt-get update -qq && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      ca-certificates python3 >/dev/null && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*

# What an image is made with and none of them holds.
FROM python AS builder
RUN apt-get update -qq && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      python3-venv >/dev/null && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*
RUN python3 -m venv --without-pip /opt/mailboat && python3 -m venv /opt/pip
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

# Without the pip that sqlite-utils brings along: nothing is ever installed into an image.
FROM builder AS agent-packages
COPY requirements/agent.lock requirements/
RUN /opt/pip/bin/pip --python /opt/mailboat install -q --require-hashes -r requirements/agent.lock && \
    /opt/pip/bin/pip --python /opt/mailboat uninstall -q -y pip && \
    find /opt/mailboat -depth -type d -name tests -exec rm -r {} +

FROM builder AS controller-packages
COPY requirements/controller.lock requirements/
RUN /opt/pip/bin/pip --python /opt/mailboat install -q --require-hashes -r requirements/controller.lock && \
    find /opt/mailboat -depth -type d -name tests -exec rm -r {} +

FROM builder AS authority-packages
COPY requirements/authority.lock requirements/
RUN /opt/pip/bin/pip --python /opt/mailboat install -q --require-hashes -r requirements/authority.lock && \
    find /opt/mailboat -depth -type d -name tests -exec rm -r {} +

# What changes with every commit: our code, for each image without what is not its own.
FROM builder AS code
COPY requirements/build.lock requirements/
RUN /opt/pip/bin/pip install -q --require-hashes -r requirements/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY broker-config broker-config
COPY docs/errors.md docs/
COPY docs/man docs/man
COPY schemas schemas
COPY agent/mailboat_agent agent/mailboat_agent
COPY controller/mailboat_controller controller/mailboat_controller
RUN /opt/pip/bin/pip wheel -q --no-deps --no-build-isolation --wheel-dir /wheels . && \
    /opt/pip/bin/pip --python /opt/mailboat install -q --no-deps /wheels/*.whl && \
    cd /opt/mailboat && rm -r pyvenv.cfg lib64 include bin/python* bin/[Aa]ctivate* && \
    cp -a /opt/mailboat /code-authority && cp -a /opt/mailboat /code-controller && \
    cp -a /opt/mailboat /code-agent && \
    rm -r /code-controller/lib/python3*/site-packages/mailboat_agent \
      /code-controller/bin/mailboat-agent \
      /code-agent/lib/python3*/site-packages/mailboat_controller /code-agent/bin/mailboat

# The number is fixed: it owns the files in volumes that outlive this image. A volume takes over
# owner and mode of the directory it is first mounted on.
FROM python AS part
ENV PATH=/opt/mailboat/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/mailboat mailboat && \
    install -d -o mailboat -g mailboat -m 0700 /var/lib/mailboat /exchange /kits /broker \
      /broker-state /metrics-credential /site-kit /site /site-state
WORKDIR /var/lib/mailboat

FROM part AS agent
COPY --from=agent-packages /opt/mailboat /opt/mailboat
COPY --from=code /code-agent /opt/mailboat
COPY agent/docker/start-agent agent/docker/agent-answers /usr/local/bin/
USER mailboat
ENTRYPOINT ["mailboat-agent"]

# Without the agent and without onnxruntime.
FROM part AS controller
COPY --from=controller-packages /opt/mailboat /opt/mailboat
COPY --from=code /code-controller /opt/mailboat
COPY controller/docker/start-controller controller/docker/controller-answers \
     controller/docker/renew-operator controller/docker/reload-broker \
     controller/docker/broker-files controller/docker/migrate-database \
     controller/docker/start-site /usr/local/bin/
COPY controller/docker/kiosk-x86.yaml controller/docker/start-broker /usr/local/share/mailboat/
# For the public images at a site, which take them from the site's volume.
COPY controller/docker/start-broker controller/docker/start-cache controller/docker/nginx.conf \
     /usr/local/share/mailboat/site/
USER mailboat
ENTRYPOINT ["mailboat"]

# The tools of people and pipelines, which try a release with the agent's own code.
FROM part AS authority
COPY --from=authority-packages /opt/mailboat /opt/mailboat
COPY --from=code /code-authority /opt/mailboat
COPY controller/docker/start-authority /usr/local/bin/
COPY controller/docker/example.py /usr/local/share/mailboat/
USER mailboat
ENTRYPOINT ["mailboat"]
