#!/bin/sh
# Start the cloud, run one sheet with a sample profile, show the data that each party holds, stop the cloud:
# sh examples/demo.sh SPLIT_CHECKPOINT [PROMPT_ID]
# Or serve a page until Ctrl-C:
# sh examples/demo.sh SPLIT_CHECKPOINT --web
set -eu
checkpoint=$1
prompt_id=${2:-birthday}
work=$(mktemp -d)

python -m llama.cloud.importing --import_file examples/catalogue.jsonl --catalogue "$work/products.sqlite" \
    >"$work/import" 2>&1 ||
    { cat "$work/import" >&2; exit 1; }

: >"$work/log"
torchrun --standalone --nproc_per_node 1 cloud_main.py --ckpt_dir "$checkpoint/cloud" --bind 'tcp://127.0.0.1:*' \
    --sheet_dir examples/sheets --edge_ckpt_dir "$checkpoint/edge" \
    --record_file "$work/runs.sqlite" --catalogue "$work/products.sqlite" >"$work/log" 2>&1 &
cloud=$!
stop() {
    kill -TERM "$cloud" 2>/dev/null || true
    wait "$cloud" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

until grep -q '^ready' "$work/log"; do
    kill -0 "$cloud" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
address=$(sed -n 's/^ready.* listening on \([^,]*\),.*/\1/p' "$work/log")

echo "cloud:   $(grep '^ready' "$work/log")"
if [ "$prompt_id" = --web ]; then
    cp examples/profile.toml "$work/profile.toml"
    echo "profile: a copy of examples/profile.toml; the page may edit it; it is deleted at the end"
    python edge_main.py --ckpt_dir "$checkpoint/edge" --cloud "$address" --profile_file "$work/profile.toml" \
        --prompt_id birthday --temperature 0 --web
    exit
fi
echo "sheet:   examples/sheets/$prompt_id.toml"
echo "profile: examples/profile.toml, which stays on the device; it has:"
grep -E '^(phone|nik|diagnosis|recipient|notes) = ' examples/profile.toml | sed 's/^/         /'
echo
python edge_main.py --ckpt_dir "$checkpoint/edge" --cloud "$address" --prompt_id "$prompt_id" \
    --profile_file examples/profile.toml --yes --temperature 0
echo
echo "all data that the provider stored (its --record_file):"
python - "$work/runs.sqlite" <<'PYTHON'
import json
import sqlite3
import sys

from llama.text.money import rupiah

runs = sqlite3.connect(sys.argv[1])
runs.row_factory = sqlite3.Row
for run in runs.execute("SELECT prompt_id, prompt_tokens, output_tokens, text, offers FROM runs"):
    print("\n".join(f"  {name:13} {run[name]!r}" for name in run.keys() if name != "offers"))
    offers = [f"{each['title']} ({each['vendor']}, {rupiah(each['price'])})" for each in json.loads(run["offers"])]
    print("\n".join(f"  {'offers' if i == 0 else '':13} {offer}" for i, offer in enumerate(offers)))
PYTHON
echo
echo "To see the same in a browser, run: make page"
