#!/bin/sh
# A shell in this component's container, with the checkout's code mounted. Arguments go to docker run.
exec "$(dirname "$0")/../../deployment/component-shell.sh" feature_extraction "$@"
