#!/usr/bin/env bash
# The importance matrix of SmolLM2-135M, by `mdl imatrix` and by llama-imatrix on the same file and text:
# how far the sums are apart, and what models built with either are worth. Exits 1 when a sum differs by
# 0.1 % or more. DIR is as setup.sh made it.
#
# usage: imatrix.sh DIR [PRESET...]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$1
shift
mdl=("$root/target/release/mdl" --store "$dir/out/store" --progress none)
text="$root/testdata/storyteller/heldout.txt"
presets=("$@")
[ ${#presets[@]} -eq 0 ] && presets=(q4_K_M q3_K_M q2_K)
(cd "$root" && cargo build --release --quiet --bin mdl)
mkdir -p "$dir/out"
f16="$dir/out/smollm2-f16.gguf"
[ -f "$f16" ] || "${mdl[@]}" build -q f16 --emit gguf -o "$f16" "$dir/smollm2"
"${mdl[@]}" imatrix "$f16" -f "$text" -o "$dir/out/imatrix-mdl.gguf"
"$dir/bin/llama-imatrix" -m "$f16" -f "$text" -c 512 -t 2 --no-ppl -o "$dir/out/imatrix-llama.cpp.gguf" >/dev/null 2>&1
"$dir/venv/bin/python" - "$dir/out/imatrix-mdl.gguf" "$dir/out/imatrix-llama.cpp.gguf" <<'P'
import sys
import numpy as np
from gguf import GGUFReader
ours, theirs = ({t.name: t.data.astype("f8").ravel() for t in GGUFReader(path).tensors} for path in sys.argv[1:])
assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
apart = {name: (abs(ours[name] / theirs[name] - 1)).max() for name in ours}
worst = max(apart, key=apart.get)
print(f"{len(ours) // 2} matrices; the sum furthest apart: {apart[worst]:.1e} of it, in {worst}")
sys.exit(0 if apart[worst] < 1e-3 else 1)
P
for preset in "${presets[@]}"; do
    for by in none mdl llama.cpp; do
        weigh=()
        [ "$by" = none ] || weigh=(--imatrix "$dir/out/imatrix-$by.gguf")
        "${mdl[@]}" build -q "$preset" "${weigh[@]}" --emit gguf -o "$dir/out/weighed.gguf" "$dir/smollm2" 2>/dev/null
        "${mdl[@]}" --threads 2 eval "$dir/out/weighed.gguf" --against "$f16" -f "$text" --json |
            python3 -c 'import json, sys
d = json.load(sys.stdin)
print(f"{sys.argv[1]:8} importance by {sys.argv[2]:10} perplexity {d[sys.argv[3]][sys.argv[4]]:8.4f}   mean KLD {d["kl_divergence"]["value"]:.6f}")' "$preset" "$by" perplexity value
    done
done
rm -f "$dir/out/weighed.gguf"
