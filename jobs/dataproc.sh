#!/usr/bin/env bash
# A build on Google's serverless Spark (Dataproc batches): no cluster to keep.
#
#   PROJECT=my-project REGION=europe-west4 BUCKET=my-bucket IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/wordweave-dataproc:0.1.0 \
#     jobs/dataproc.sh CONFIG gs://bucket/manifest.jsonl gs://bucket/build [OPTIONS OF wordweave build]
#
# Submit in the checkout: its wordweave.py is the driver's first file. Needs gcloud, and an image:
#   docker build -f docker/Dockerfile --target dataproc -t "$IMAGE" . && docker push "$IMAGE"
#
#   EXECUTORS   at most N (16)       CORES   of each: 4, 8 or 16 (4)
#   GPU         l4, a100-40 or a100-80: one for each executor; needs [units] device = "cuda" in CONFIG (none)
#   RUNTIME     version of the service's Spark (3.0, which is Spark 4)
set -euo pipefail

if (($# < 3)); then
  echo "dataproc.sh: need CONFIG MANIFEST BUILD, got $# arguments" >&2
  exit 2
fi
: "${PROJECT:?}" "${REGION:?}" "${BUCKET:?need a bucket for what is uploaded}" "${IMAGE:?}"
config=$1 manifest=$2 build=$3
shift 3
cores=${CORES:-4}
name=wordweave-$(printf %s "$build" | cksum | cut -d ' ' -f 1)-$(date +%Y%m%d-%H%M%S)

properties=(
  "spark.executor.cores=$cores"
  "spark.dynamicAllocation.maxExecutors=${EXECUTORS:-16}"
  "spark.executor.memory=2g"                   # of Java, which does little
  "spark.executor.memoryOverhead=$((cores * 5))g" # of Python
  "spark.executorEnv.OMP_NUM_THREADS=1"
  "spark.dataproc.driverEnv.OMP_NUM_THREADS=1"
  "spark.task.maxFailures=8"
  "spark.speculation=true" # two attempts at a part write the same bytes
)
if [[ -n ${GPU:-} ]]; then
  properties+=(
    "spark.dataproc.executor.compute.tier=premium"
    "spark.dataproc.executor.disk.tier=premium"
    "spark.dataproc.executor.resource.accelerator.type=$GPU"
    "spark.executor.resource.gpu.amount=1"
    "spark.task.resource.gpu.amount=1"
    "spark.task.cpus=$cores"
  )
fi

gcloud dataproc batches submit pyspark wordweave.py --batch="$name" \
  --project="$PROJECT" --region="$REGION" --deps-bucket="gs://$BUCKET" \
  --container-image="$IMAGE" --version="${RUNTIME:-3.0}" --ttl=168h \
  --files="$config" --properties="$(IFS=,; echo "${properties[*]}")" \
  -- build "$(basename "$config")" --source "$manifest" --build "$build" --engine spark "$@"
