#!/bin/sh
# deployment/component-shell.sh COMPONENT [docker run's options ...]
# A shell in the container of src/COMPONENT (or of deployment), with this checkout's code in the place of the image's.
# TARGET_IMAGE: a ready image, instead of building one. BUILD_ARGS: more arguments of docker build.
set -eu
component="$1"
shift
root="$(cd "$(dirname "$0")/.." && pwd)"
case "$component" in
api_service) image=api-service ;;
frontend_simple) image=frontend ;;
model_deployment) image=model-server ;;
*) image="$(printf '%s' "$component" | tr _ -)" ;;
esac
folder="$root/src/$component"
[ "$component" = deployment ] && folder="$root/deployment"
dockerfile="$folder/Dockerfile"
[ -f "$folder/Dockerfile.dev" ] && dockerfile="$folder/Dockerfile.dev"
if [ -z "${TARGET_IMAGE:-}" ]; then
    if grep -q TORCH_BASE "$dockerfile" && ! docker image inspect torch-base >/dev/null 2>&1; then
        docker build -t torch-base -f "$root/deployment/torch-base/Dockerfile" "$root"
    fi
    # shellcheck disable=SC2086  # BUILD_ARGS is a list of words
    docker build -t "$image:dev" ${BUILD_ARGS:-} -f "$dockerfile" "$root"
fi
terminal="-i"
[ -t 0 ] && terminal="-it"
[ "$component" = frontend_simple ] && set -- -v "$folder:/srv/page:ro" "$@"
exec docker run --rm "$terminal" --entrypoint /bin/sh \
    -v "$root/src:/src:ro" -v "$root/model_store:/model_store:ro" -e PYTHONPATH=/src -w /src \
    "$@" "${TARGET_IMAGE:-$image:dev}"
