#!/bin/sh
# Start the cloud, ask it one prompt from a device, stop the cloud: sh examples/demo.sh SPLIT_CHECKPOINT [PROMPT_FILE]
set -eu
checkpoint=$1
prompt=${2:-examples/gift_ideas.toml}
log=$(mktemp)

torchrun --standalone --nproc_per_node 1 cloud_main.py --ckpt_dir "$checkpoint/cloud" --bind 'tcp://127.0.0.1:*' \
    >"$log" 2>&1 &
cloud=$!
stop() {
    kill -TERM "$cloud" 2>/dev/null || true
    wait "$cloud" 2>/dev/null || true
    rm -f "$log"
}
trap stop EXIT
trap 'exit 130' INT TERM

until grep -q '^ready' "$log"; do
    kill -0 "$cloud" 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.1
done
address=$(sed -n 's/^ready.* listening on \([^,]*\),.*/\1/p' "$log")

echo "cloud:  $(grep '^ready' "$log")"
echo "prompt: $prompt"
grep -A 3 '^questions' "$prompt" || true
echo
python edge_main.py --ckpt_dir "$checkpoint/edge" --cloud "$address" --prompt_file "$prompt" --temperature 0
