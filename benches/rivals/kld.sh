#!/usr/bin/env bash
# How far each preset of SmolLM2-135M is from its F16 weights, as `mdl eval` and as llama-perplexity
# measure it on the same files and text, in one run. Exits 1 when a perplexity differs by 0.5 % or more (of
# fewer chunks, where chance weighs more: by more, as the root of their number). DIR is as setup.sh made it. llama-perplexity keeps the base's log-probabilities as 16 bits in a file and
# leaves out those below e^-16; both models run in each of mdl's rows.
#
# usage: [CHUNKS=N] kld.sh DIR [PRESET...]          all 13 chunks of the text, or the first N
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$1
shift
text="$root/testdata/storyteller/heldout.txt"
mdl="$root/target/release/mdl"
presets=("$@")
[ ${#presets[@]} -eq 0 ] && presets=(f16 bf16 q8_0 q6_K q5_K_M q5_K_S q5_1 q5_0 q4_K_M q4_K_S q4_1 q4_0 iq4_nl iq4_xs q3_K_L q3_K_M q3_K_S q2_K)
(cd "$root" && cargo build --release --quiet --bin mdl)
chunks=()
[ -z "${CHUNKS:-}" ] || chunks=(--chunks "$CHUNKS")
mkdir -p "$dir/out"
for preset in f16 "${presets[@]}"; do
    [ -f "$dir/out/smollm2-$preset.gguf" ] ||
        "$mdl" --store "$dir/out/store" --progress none build -q "$preset" --emit gguf -o "$dir/out/smollm2-$preset.gguf" "$dir/smollm2"
done
base="$dir/out/kld.base"
"$dir/bin/llama-perplexity" -m "$dir/out/smollm2-f16.gguf" -f "$text" -c 512 -t 2 "${chunks[@]}" --kl-divergence-base "$base" >/dev/null 2>&1
for preset in "${presets[@]}"; do
    model="$dir/out/smollm2-$preset.gguf"
    "$mdl" --progress none --threads 2 eval "$model" --against "$dir/out/smollm2-f16.gguf" -f "$text" "${chunks[@]}" --json >"$dir/out/kld-$preset.json"
    "$dir/bin/llama-perplexity" -m "$model" -c 512 -t 2 --kl-divergence --kl-divergence-base "$base" >"$dir/out/kld-$preset.txt" 2>&1
done
rm -f "$base"
python3 - "$dir/out" "${presets[@]}" <<'P'
import json, re, sys
out, presets = sys.argv[1], sys.argv[2:]
print(f"{'':8} {'perplexity':>19} {'KLD mean':>21} {'median':>19} {'99.9 %':>17} {'same top %':>15} {'RMS dp %':>13}")
print(f"{'preset':8}" + " {:>9} {:>9} {:>10} {:>10} {:>9} {:>9} {:>8} {:>8} {:>7} {:>7} {:>6} {:>6}".format(*["mdl", "llama.cpp"] * 4, *["mdl", "l.cpp"] * 2))
wrong = []
for preset in presets:
    d = json.load(open(f"{out}/kld-{preset}.json"))
    rival = open(f"{out}/kld-{preset}.txt").read()
    theirs = lambda name: float(re.search(rf"^{name}\s*:\s*(-?[\d.]+|nan|-nan)", rival, re.M).group(1))
    k = d["kl_divergence"]
    pairs = [(d["perplexity"]["value"], theirs(r"Mean PPL\(Q\)"), "9.4f"), (k["value"], theirs("Mean +KLD"), "10.6f"),
             (k["median"], theirs("Median +KLD"), "9.6f"), (k["p99_9"], theirs("99.9% +KLD"), "8.4f"),
             (100 * d["same_top"]["value"], theirs("Same top p"), "7.3f"), (100 * d["delta_p"]["rms"]["value"], theirs("RMS Δp"), "6.3f")]
    print(f"{preset:8}" + "".join(f" {a:{f}} {b:{f}}" for a, b, f in pairs))
    if not abs(pairs[0][0] / pairs[0][1] - 1) < 0.005 * (13 / d["chunks"]) ** 0.5:
        wrong.append(f"{preset}: perplexity {pairs[0][0]} and {pairs[0][1]}")
print("\n".join(["", "FAILED:"] + wrong) if wrong else "\nevery perplexity is that of llama-perplexity, within the limit")
sys.exit(1 if wrong else 0)
P
