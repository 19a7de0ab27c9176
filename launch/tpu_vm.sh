#!/bin/bash
# One run on all hosts of a TPU VM, by a queued resource of Google Cloud.
#
#     export PROJECT=my-project ZONE=us-east5-a TYPE=v5p-32 VERSION=v2-alpha-tpuv5 BUCKET=gs://mine
#     launch/tpu_vm.sh create                    # asks for it, and waits until it is there
#     launch/tpu_vm.sh setup                     # copies this folder to every host, and installs it
#     launch/tpu_vm.sh run python -m experiments.r1_zero --mesh=16x1 --out=/mnt/runs/a
#     launch/tpu_vm.sh log                       # follows process 0
#     launch/tpu_vm.sh stop                      # SIGTERM on every host: a checkpoint, then it ends
#     launch/tpu_vm.sh delete
#
# To change: the variables above, and
#
#     NAME     of the resource and its node (r1jax)
#     SPOT     1 for one that may be preempted; then it is to be created, set up and run again: the
#              same command goes on, with --resume=auto
#     WAIT     how long a request may stand in the queue (6h)
#
# --out must be a folder that all hosts share: a Filestore share mounted on each, say, or the bucket
# (setup mounts it at /mnt/runs where BUCKET is set). Checkpoints are better written to the bucket
# itself: --checkpoint-to=gs://mine/runs/a.
#
# shellcheck disable=SC2016  # what is for the hosts is not expanded here
set -euo pipefail

NAME=${NAME:-r1jax}
WAIT=${WAIT:-6h}
: "${PROJECT:?}" "${ZONE:?}"
here=$(cd "$(dirname "$0")/.." && pwd)
at=(--project="$PROJECT" --zone="$ZONE")

everywhere() { # command, on all hosts
    gcloud compute tpus tpu-vm ssh "$NAME" "${at[@]}" --worker=all --command="$1"
}

state() {
    gcloud compute tpus queued-resources describe "$NAME" "${at[@]}" --format='value(state.state)'
}

case "${1:-}" in
create)
    kind=()
    if [ -n "${SPOT:-}" ]; then kind=(--spot); fi
    gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" "${at[@]}" \
        --accelerator-type="${TYPE:?}" --runtime-version="${VERSION:?}" \
        --valid-until-duration="$WAIT" "${kind[@]}"
    while :; do
        now=$(state)
        echo "$NAME: $now"
        case "$now" in
        ACTIVE) exit 0 ;;
        FAILED | SUSPENDED | SUSPENDING) exit 1 ;;
        esac
        sleep "${POLL:-30}"
    done
    ;;
setup)
    archive=$(mktemp)
    trap 'rm -f "$archive"' EXIT
    git -C "$here" archive --format=tar.gz HEAD >"$archive"
    gcloud compute tpus tpu-vm scp "$archive" "$NAME:r1jax.tar.gz" "${at[@]}" --worker=all
    everywhere "mkdir -p r1jax && tar -xzf r1jax.tar.gz -C r1jax && cd r1jax && \
python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu,gcs]'"
    if [ -n "${BUCKET:-}" ]; then
        everywhere "sudo mkdir -p /mnt/runs && sudo chmod 777 /mnt/runs && \
gcsfuse --implicit-dirs ${BUCKET#gs://} /mnt/runs"
    fi
    ;;
run)
    shift
    if [ $# -eq 0 ]; then
        echo "usage: tpu_vm.sh run COMMAND ..." >&2
        exit 2
    fi
    printf -v command '%q ' "$@" --distributed --resume=auto
    # It outlives this connection; its number is for `stop`.
    everywhere "cd r1jax && PATH=\$PWD/.venv/bin:\$PATH && \
(nohup $command >run.log 2>&1 & echo \$! >run.pid)"
    ;;
log)
    gcloud compute tpus tpu-vm ssh "$NAME" "${at[@]}" --worker=0 --command='tail -n 100 -F r1jax/run.log'
    ;;
status)
    state
    everywhere 'kill -0 "$(cat r1jax/run.pid)" 2>/dev/null && echo runs || tail -n 1 r1jax/run.log'
    ;;
stop)
    everywhere 'kill -TERM "$(cat r1jax/run.pid)"'
    ;;
delete)
    gcloud compute tpus queued-resources delete "$NAME" "${at[@]}" --force --quiet
    ;;
*)
    sed -n '2,22s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
