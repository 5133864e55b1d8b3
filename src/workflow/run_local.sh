#!/usr/bin/env bash
# The training sentence on one machine: clips -> preprocess -> features -> train -> evaluate -> bundle -> .mar -> served.
#   src/workflow/run_local.sh [FOLDER]     from nothing, on a dozen clips of a local web site; minutes on 2 cores
# Killed at any moment, the same command goes on where it was. PYTHON: the interpreter with the package installed.
# CLUSTER (current, context:NAME, gke:PROJECT/LOCATION/NAME): a better bundle is also rolled out there.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
work=$(realpath -m "${1:-$repo/runs/workflow}")
python=${PYTHON:-$repo/.venv/bin/python}
s2s=("$python" -m s2s.cli)
cd "$repo/src"
export OMP_WAIT_POLICY=PASSIVE
mkdir -p "$work"
say() { printf '== %s (%ss)\n' "$1" "$SECONDS"; }

say "a site to collect from"
"$python" -m workflow.sample_site make "$work/site"
rm -f "$work/site/ready"
"$python" -m workflow.sample_site serve "$work/site" &
site=$!
trap 'kill $site 2>/dev/null || true' EXIT
for _ in $(seq 600); do [ -e "$work/site/ready" ] && break; sleep 0.2; done
address="http://127.0.0.1:$(cat "$work/site/port")/{id}.mp4"

say "data_collection"
"$python" -m data_collection.collect --csv "$work/site/wanted.csv" --address "$address" --licence Apache-2.0 \
    --per-minute 600 --out "$work/raw"
kill $site

say "data_preprocessing"
"$python" -m data_preprocessing.preprocess "$work/raw" --out "$work/clips"

say "feature_extraction"
"$python" -m feature_extraction.extract "$work/clips" --out "$work/features"

say "train and evaluate: bundle, report"
"$python" -m train.train --recipe tiny --clips "$work/clips" --features "$work/features" --run-dir "$work/run"

say "export: the .mar"
"$python" -m model_deployment.build_mar --whole --bundle "$work/run/bundle" --out "$work/s2s.mar"

say "deploy: promote, and roll out where a cluster is named"
"${s2s[@]}" bundle promote "$work/run/bundle" "$work/bundles" --cluster "${CLUSTER:-}"

say "one prediction by that .mar under TorchServe"
S2S_ARCHIVE="$work/s2s.mar" "${s2s[@]}" demo --out "$work/demo"
say "done"
