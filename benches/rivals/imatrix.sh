#!/usr/bin/env bash
# The importance matrix of SmolLM2-135M, by `mdl imatrix` and by llama-imatrix on the same file and text:
# how far the sums are apart, and what models built with either are worth. Exits 1 when those of a matrix
# differ by 0.1 % of their norm or more; llama.cpp rounds activations to F16 before it multiplies with F16
# weights, so single sums differ more. DIR is as setup.sh made it.
#
# usage: [CHUNKS=N] imatrix.sh DIR [PRESET...]      all 13 chunks of the text, or the first N
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$1
shift
mdl=("$root/target/release/mdl" --store "$dir/out/store" --progress none)
text="$root/testdata/storyteller/heldout.txt"
presets=("$@")
[ ${#presets[@]} -eq 0 ] && presets=(q4_K_M q3_K_M q2_K)
(cd "$root" && cargo build --release --quiet --bin mdl)
chunks=()
[ -z "${CHUNKS:-}" ] || chunks=(--chunks "$CHUNKS")
mkdir -p "$dir/out"
f16="$dir/out/smollm2-f16.gguf"
[ -f "$f16" ] || "${mdl[@]}" build -q f16 --emit gguf -o "$f16" "$dir/smollm2"
"${mdl[@]}" imatrix "$f16" -f "$text" "${chunks[@]}" -o "$dir/out/imatrix-mdl.gguf"
"$dir/bin/llama-imatrix" -m "$f16" -f "$text" -c 512 -t 2 "${chunks[@]}" --no-ppl -o "$dir/out/imatrix-llama.cpp.gguf" >/dev/null 2>&1
"$dir/venv/bin/python" - "$dir/out/imatrix-mdl.gguf" "$dir/out/imatrix-llama.cpp.gguf" <<'P'
import sys
import numpy as np
from gguf import GGUFReader
ours, theirs = ({t.name: t.data.astype("f8").ravel() for t in GGUFReader(path).tensors} for path in sys.argv[1:])
assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
norm = {name: np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(theirs[name]) for name in ours}
single = {name: (abs(ours[name] / theirs[name] - 1)).max() for name in ours}
a, b = max(norm, key=norm.get), max(single, key=single.get)
print(f"{len(ours) // 2} matrices; furthest apart: {norm[a]:.1e} of the norm in {a}, one sum by {single[b]:.1e} in {b}")
sys.exit(0 if norm[a] < 1e-3 else 1)
P
for preset in "${presets[@]}"; do
    for by in none mdl llama.cpp; do
        weigh=()
        [ "$by" = none ] || weigh=(--imatrix "$dir/out/imatrix-$by.gguf")
        "${mdl[@]}" build -q "$preset" "${weigh[@]}" --emit gguf -o "$dir/out/weighed.gguf" "$dir/smollm2" 2>/dev/null
        "${mdl[@]}" --threads 2 eval "$dir/out/weighed.gguf" --against "$f16" -f "$text" "${chunks[@]}" --json |
            python3 -c 'import json, sys
d = json.load(sys.stdin)
ppl, kld = d["perplexity"]["value"], d["kl_divergence"]["value"]
print(f"{sys.argv[1]:8} importance by {sys.argv[2]:10} perplexity {ppl:8.4f}   mean KLD {kld:.6f}")' "$preset" "$by"
    done
done
rm -f "$dir/out/weighed.gguf"
