# Stands in for python:3.11-slim-bookworm: Debian's own Python 3.11, with headers, as the official image has them.
# hadolint ignore=DL3006
FROM local/debian
RUN apt-get update -q \
    && apt-get install -y -q --no-install-recommends python3 python3-venv python3-pip libpython3.11-dev \
    && rm -rf /var/lib/apt/lists/* /usr/lib/python3.11/EXTERNALLY-MANAGED \
    && ln -s python3 /usr/bin/python
