#!/usr/bin/env bash
# Builds a synthetic checkpoint of 4 GB and prints: the peak of anonymous memory (RssAnon), the time of a dry
# run, and the time of a rebuild with another SYSTEM, with the bytes it reads. Needs Linux, 8 GB of disk.
#
# usage: memory.sh DIR [GIGABYTES]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
cargo build --release --quiet --bin mdl
mdl="$root/target/release/mdl"
work=$1
mkdir -p "$work"
[ -f "$work/model/model.safetensors" ] || python3 benches/synthetic_model.py "$work/model" "${2:-4}"
rm -rf "$work/store"
run() { "$mdl" --store "$work/store" --progress none build -q q4_K_M -t big "$@"; }

echo "dry run:"
time run --dry-run "$work/model"

started=$(date +%s.%N)
"$mdl" --store "$work/store" --progress none build -q q4_K_M -t big "$work/model" &
child=$!
peak=0
while kill -0 $child 2>/dev/null; do
    anon=$(awk '/^RssAnon|^VmSwap/ { sum += $2 } END { print sum + 0 }' /proc/$child/status 2>/dev/null || echo 0)
    [ "$anon" -gt "$peak" ] && peak=$anon
    sleep 0.02
done
wait $child
awk "BEGIN { printf \"build: %.1f s\\n\", $(date +%s.%N) - $started }"
echo "peak RssAnon + VmSwap of the build: $((peak / 1024)) MiB"

echo "rebuild with another SYSTEM:"
printf 'FROM %s\nSYSTEM Another one.\n' "$work/model" > "$work/Modelfile"
time run "$work/Modelfile"
if command -v strace >/dev/null; then
    printf 'FROM %s\nSYSTEM A third one.\n' "$work/model" > "$work/Modelfile"
    strace -f -e trace=pread64,read -o "$work/trace" "$mdl" --store "$work/store" --progress none build -q q4_K_M -t big "$work/Modelfile"
    echo "bytes it read: $(awk -F'= ' '/read/ && $NF > 0 { sum += $NF } END { print sum }' "$work/trace")"
fi
