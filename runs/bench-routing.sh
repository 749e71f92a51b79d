#!/bin/sh
# The published routing benchmark: the embedded router and the baselines on every development set; its robustness and
# cost; and what a few examples a policy are worth. docs/benchmark.md tells what came out.
#
# Cost: about half an hour on two shared cores, 1 GB of memory; no GPU. The figures but times are the same wherever it runs with
# the same processor's int8 arithmetic. Last run: 2026-11-24.
# Made: benches/routing/{routers,encoder,shots}.json, and routers.html, encoder.html beside them.
# Needs: pip install 'pointsman[report]', DATA, the folder of the labelled data, and for the baselines MINILM, the
# published weights exported (the next line makes it, with 'pointsman[train]'). Run again, it goes on.
#
#   pointsman train encoder runs/untrained.toml --work build/untrained --out build/minilm-l6-v2
set -eu
cd "$(dirname "$0")/.."
DATA=${DATA:?folder of the labelled data}
MINILM=${MINILM:-build/minilm-l6-v2}
WORK=${WORK:-build/bench-routing}
mkdir -p "$WORK"

# 1. Every router on every set, the whole set and ten policies.
pointsman eval --data "$DATA" --size all --size 10 --resume --out "$WORK/routers.json" --html "$WORK/routers.html" \
    --router encoder --router most-frequent --router word-overlap \
    --router "cosine-last@$MINILM" --router "cosine-all@$MINILM"

# 2. The embedded router alone: all sizes, perturbed, and what it costs.
pointsman eval --data "$DATA" --robustness 100 --cost --resume --out "$WORK/encoder.json" --html "$WORK/encoder.html" \
    --only clinc150,clinc150-multi,sgd,mantis14,arena-hard,everyday-apps,stackexchange,llm-tasks

# 3. Five requests of each policy as its examples, where the source has a training part.
pointsman eval --data "$DATA" --shots 5 --size all --size 10 --scenario fqfa --resume --out "$WORK/shots.json" \
    --only hwu64,office-assistant,snips,bitext,dstc11-insurance,dstc11-finance,llm-tasks,niv2-tasks \
    --router encoder --router "cosine-last@$MINILM" --router "nearest-example@$MINILM"

cp "$WORK"/*.json "$WORK"/*.html benches/routing/
