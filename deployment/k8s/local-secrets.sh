#!/bin/sh
# Prints the Secrets of a local cluster, with passwords that nobody has seen before:
#   deployment/k8s/local-secrets.sh | kubectl apply -f -
# Run it once: the database keeps the password of its first start.
set -eu

random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

password=$(random)
cat <<YAML
apiVersion: v1
kind: Secret
metadata: {name: postgres, namespace: s2s}
stringData:
  password: "$password"
---
apiVersion: v1
kind: Secret
metadata: {name: s2s-secrets, namespace: s2s}
stringData:
  S2S_DATABASE_URL: "postgresql://s2s:$password@postgres:5432/s2s"
  S2S_SECRET_KEY: "$(random)"
YAML
