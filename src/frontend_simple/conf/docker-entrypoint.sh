#!/bin/sh
# Tells nginx who resolves names here, and the gateway's full name: it is asked for again every few seconds, so a gateway
# that was restarted at another address is found. Below a Kubernetes Service the name needs the pod's search domain.
set -eu
resolver="$(awk '$1 == "nameserver" { print ($2 ~ /:/) ? "[" $2 "]" : $2; exit }' /etc/resolv.conf)"
domain="$(awk '$1 == "search" && $2 ~ /\.svc\./ { print "." $2; exit }' /etc/resolv.conf)"
cat >/tmp/gateway.conf <<CONF
resolver ${resolver} valid=5s;
map "" \$gateway { default "http://${GATEWAY:-api-service}${domain}:9000"; }
CONF
exec "$@"
