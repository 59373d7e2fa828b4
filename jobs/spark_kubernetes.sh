#!/usr/bin/env bash
# A build on Spark on Kubernetes (EKS, GKE, AKS or your own): the driver is a pod too, so this machine may go away.
#
#   MASTER=k8s://https://HOST:443 IMAGE=registry/wordweave-spark:0.1.0 EXECUTORS=16 \
#     jobs/spark_kubernetes.sh CONFIG s3://bucket/manifest.jsonl s3://bucket/build [OPTIONS OF wordweave build]
#
# Needs kubectl and Spark's spark-submit (of `pip install '.[spark]'`, and a JDK 17), and an image:
#   docker build -f docker/Dockerfile --target spark -t "$IMAGE" . && docker push "$IMAGE"
# The service account may create pods, config maps and services, and read and write the bucket.
#
#   NAMESPACE   (default)            SERVICE_ACCOUNT   (spark)
#   EXECUTORS   pods (4)             CORES   of each (4); on GPUs one task at a time has them all, to decode ahead
#   MEMORY      of each (16g)        GPUS    1: one NVIDIA GPU for each executor; needs [units] device = "cuda" in CONFIG (0)
set -euo pipefail

if (($# < 3)); then
  echo "spark_kubernetes.sh: need CONFIG MANIFEST BUILD, got $# arguments" >&2
  exit 2
fi
: "${MASTER:?need k8s://https://HOST:PORT of the cluster}" "${IMAGE:?need the image with Spark and this project}"
config=$1 manifest=$2 build=$3
shift 3
namespace=${NAMESPACE:-default} account=${SERVICE_ACCOUNT:-spark} cores=${CORES:-4} gpus=${GPUS:-0}
name=wordweave-$(printf %s "$build" | cksum | cut -d ' ' -f 1) # of the build, so that a second run replaces it

# The settings reach the driver's pod as a config map.
kubectl --namespace "$namespace" create configmap "$name" --from-file=settings.toml="$config" \
  --dry-run=client --output=yaml | kubectl --namespace "$namespace" apply --filename -
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cat >"$folder/driver.yaml" <<YAML
apiVersion: v1
kind: Pod
spec:
  containers:
    - name: spark-kubernetes-driver
      volumeMounts:
        - {name: settings, mountPath: /etc/wordweave}
  volumes:
    - name: settings
      configMap: {name: $name}
YAML

conf=(
  --conf "spark.kubernetes.namespace=$namespace"
  --conf "spark.kubernetes.authenticate.driver.serviceAccountName=$account"
  --conf "spark.kubernetes.authenticate.executor.serviceAccountName=$account"
  --conf "spark.kubernetes.container.image=$IMAGE"
  --conf "spark.kubernetes.driver.podTemplateFile=$folder/driver.yaml"
  --conf "spark.kubernetes.driver.podTemplateContainerName=spark-kubernetes-driver"
  --conf "spark.pyspark.python=/usr/local/bin/python"
  --conf "spark.executor.instances=${EXECUTORS:-4}"
  --conf "spark.executor.cores=$cores"
  --conf "spark.executor.memory=1g" # of Java, which does little; Python's memory is the overhead
  --conf "spark.executor.memoryOverhead=${MEMORY:-16g}"
  --conf "spark.driver.memory=2g"
  --conf "spark.driver.memoryOverhead=8g"
  --conf "spark.executorEnv.OMP_NUM_THREADS=1"
  --conf "spark.kubernetes.driverEnv.OMP_NUM_THREADS=1"
  --conf "spark.task.maxFailures=8"
  --conf "spark.speculation=true" # two attempts at a part write the same bytes
)
if ((gpus)); then
  conf+=(
    --conf "spark.executor.resource.gpu.amount=$gpus"
    --conf "spark.executor.resource.gpu.vendor=nvidia.com"
    --conf "spark.executor.resource.gpu.discoveryScript=/opt/spark/examples/src/main/scripts/getGpusResources.sh"
    --conf "spark.task.resource.gpu.amount=1"
    --conf "spark.task.cpus=$((cores / gpus))"
  )
fi

spark-submit --master "$MASTER" --deploy-mode cluster --name "$name" "${conf[@]}" \
  local:///opt/wordweave/wordweave.py \
  build /etc/wordweave/settings.toml --source "$manifest" --build "$build" --engine spark "$@"
