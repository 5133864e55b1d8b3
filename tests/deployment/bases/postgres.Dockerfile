# Stands in for the official postgres image: the same variables (POSTGRES_*, PGDATA) and the same command line.
# hadolint ignore=DL3006
FROM local/debian
RUN apt-get update -q && apt-get install -y -q --no-install-recommends postgresql-15 libnss-wrapper && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /var/lib/postgresql/data && chown -R postgres:postgres /var/lib/postgresql /var/run/postgresql \
    && chmod 1777 /var/lib/postgresql/data /var/run/postgresql
COPY --chmod=755 postgres-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PGDATA=/var/lib/postgresql/data
USER postgres
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
