#!/usr/bin/env bash
# A build on Google Cloud Dataflow. A build is one Dataflow job per stage with steps between that need all parts, so there
# is a driver, and no template: a template is a single pipeline.
#
#   PROJECT=my-project REGION=europe-west4 BUCKET=my-bucket IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/wordweave:0.1.0 \
#     jobs/dataflow.sh CONFIG gs://bucket/manifest.jsonl gs://bucket/build [OPTIONS OF BEAM]
#
# Needs `pip install '.[dataflow]'`, gcloud, and an image: docker build -f docker/Dockerfile -t "$IMAGE" . && docker push "$IMAGE"
#
#   DRIVER    here: this process waits until the build is done (default)
#             cloud-run: the driver is a Cloud Run job from the same image, for at most 7 days; this machine may go away
#   GPU       for example nvidia-l4: one for each worker of the stages that use one; needs [units] device = "cuda" in CONFIG (none)
#   WORKERS   at most N of them (50)         MACHINE   their type (the service chooses)
set -euo pipefail

if (($# < 3)); then
  echo "dataflow.sh: need CONFIG MANIFEST BUILD, got $# arguments" >&2
  exit 2
fi
: "${PROJECT:?}" "${REGION:?}" "${BUCKET:?need a bucket for temporary files}" "${IMAGE:?}"
config=$1 manifest=$2 build=$3
shift 3
options=(
  --runner=DataflowRunner --project="$PROJECT" --region="$REGION" --temp_location="gs://$BUCKET/tmp"
  --sdk_container_image="$IMAGE" --max_num_workers="${WORKERS:-50}"
)
if [[ -n ${GPU:-} ]]; then # the service chooses machines for each stage by these hints
  options+=(--gpu_min_ram=24GB "--gpu_accelerator=type:$GPU;count:1;install-nvidia-driver")
fi
if [[ -n ${MACHINE:-} ]]; then
  options+=(--machine_type="$MACHINE")
fi
options+=("$@")

case ${DRIVER:-here} in
here)
  exec wordweave build "$config" --source "$manifest" --build "$build" -- "${options[@]}"
  ;;
cloud-run)
  name=wordweave-$(printf %s "$build" | cksum | cut -d ' ' -f 1)
  gcloud storage cp "$config" "gs://$BUCKET/$name/settings.toml"
  arguments=(build "/settings/$name/settings.toml" --source "$manifest" --build "$build" -- "${options[@]}")
  gcloud run jobs deploy "$name" --project="$PROJECT" --region="$REGION" --image="$IMAGE" \
    --command=wordweave --args="^|^$(IFS='|'; echo "${arguments[*]}")" \
    --tasks=1 --max-retries=3 --task-timeout=168h --cpu=4 --memory=16Gi --set-env-vars=OMP_NUM_THREADS=1 \
    --add-volume="name=settings,type=cloud-storage,bucket=$BUCKET,readonly=true" \
    --add-volume-mount="volume=settings,mount-path=/settings" --execute-now
  ;;
*)
  echo "dataflow.sh: DRIVER: need here or cloud-run, got '$DRIVER'" >&2
  exit 2
  ;;
esac
