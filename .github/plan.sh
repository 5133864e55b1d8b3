#!/usr/bin/env bash
# Which of the long jobs does this run want? Prints lines for $GITHUB_OUTPUT.
# A push to main asks by words of its last commit message (/run-deploy-app and the like), a person by workflow_dispatch.
# The message is data from outside: it comes in as a variable and is only ever compared.
set -euo pipefail

asked() { # $1: deploy-app
    if [ "$EVENT" = workflow_dispatch ]; then
        [ "$WANTED" = "$1" ]
    elif [ "$EVENT" = push ] && [ "$REF" = refs/heads/main ]; then
        grep -qE "(^|[[:space:]])/run-$1([[:space:]]|\$)" <<<"$MESSAGE"
    else
        false
    fi
}

for job in deploy-app data-collector data-processor ml-pipeline; do
    if asked "$job"; then echo "$job=true"; else echo "$job=false"; fi
done
