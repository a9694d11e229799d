#!/usr/bin/env bash
# Prefill of 512 tokens and decode of 128 on two threads, mdl and llama.cpp in turn, five rounds; prints
# each round and the medians' ratio (above 1: mdl is faster). DIR is as setup.sh made it.
#
# usage: speed.sh DIR [PRESET...]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$1
shift
presets=("$@")
[ ${#presets[@]} -eq 0 ] && presets=(q4_0 q4_K_M q8_0 f16)
(cd "$root" && cargo build --release --quiet --bins --examples)
mkdir -p "$dir/out"
for preset in "${presets[@]}"; do
    model="$dir/out/smollm2-$preset.gguf"
    [ -f "$model" ] || "$root/target/release/mdl" --store "$dir/out/store" --progress none build -q "$preset" --emit gguf -o "$model" "$dir/smollm2"
    for round in 1 2 3 4 5; do
        mdl=$(MDL_THREADS=2 "$root/target/release/examples/evaluate" speed "$model" 512 128)
        rival=$("$dir/bin/llama-bench" -m "$model" -p 512 -n 128 -t 2 -r 1 -o csv 2>/dev/null |
            python3 -c 'import csv, sys; print(*(round(float(r["avg_ts"]), 1) for r in csv.DictReader(sys.stdin)))')
        echo "$preset $round $mdl $rival"
    done
done | tee "$dir/out/speed.txt"
python3 - "$dir/out/speed.txt" <<'P'
import statistics, sys
rows = [line.split() for line in open(sys.argv[1])]
print(f"{'preset':8} {'prefill mdl':>12} {'llama.cpp':>10} {'ratio':>6}   {'decode mdl':>10} {'llama.cpp':>10} {'ratio':>6}")
for preset in dict.fromkeys(r[0] for r in rows):
    a, b, c, d = (statistics.median(float(r[i]) for r in rows if r[0] == preset) for i in (2, 3, 4, 5))
    print(f"{preset:8} {a:12.1f} {c:10.1f} {a / c:6.2f}   {b:10.1f} {d:10.1f} {b / d:6.2f}")
P
