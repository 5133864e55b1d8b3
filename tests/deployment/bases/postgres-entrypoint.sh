#!/bin/sh
# What the official image's entry point does for a fresh data directory, and no more.
set -eu
export PGUSER="${POSTGRES_USER:-postgres}" PGDATABASE="${POSTGRES_DB:-${POSTGRES_USER:-postgres}}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if ! whoami >/dev/null 2>&1; then # initdb wants a name for the user id that a cluster gives
        NSS_WRAPPER_PASSWD="$(mktemp)" NSS_WRAPPER_GROUP="$(mktemp)" LD_PRELOAD=libnss_wrapper.so
        export NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP LD_PRELOAD
        echo "postgres:x:$(id -u):$(id -g):PostgreSQL:$PGDATA:/bin/false" >"$NSS_WRAPPER_PASSWD"
        echo "postgres:x:$(id -g):" >"$NSS_WRAPPER_GROUP"
    fi
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        POSTGRES_PASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"
    fi
    password_file="$(mktemp)"
    printf '%s\n' "$POSTGRES_PASSWORD" >"$password_file"
    initdb --username="$PGUSER" --pwfile="$password_file" --auth-host=scram-sha-256 --auth-local=trust -E UTF8 >/dev/null
    rm -f "$password_file"
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl -w start -o "-c listen_addresses=" >/dev/null
    [ "$PGDATABASE" = postgres ] || createdb -h /var/run/postgresql --maintenance-db=postgres "$PGDATABASE"
    pg_ctl -w stop >/dev/null
    unset LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
fi
exec "$@" -c listen_addresses='*'
