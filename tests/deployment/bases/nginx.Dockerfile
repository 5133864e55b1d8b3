# Stands in for nginxinc/nginx-unprivileged: of it our image uses nginx itself, mime.types and wget.
# hadolint ignore=DL3006
FROM local/debian
RUN apt-get update -q && apt-get install -y -q --no-install-recommends nginx-light wget && rm -rf /var/lib/apt/lists/*
