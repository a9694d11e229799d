# The daily commands.

# Format, lint, test: what the gate runs.
check:
    bash .ci/run

# On a machine with an NVIDIA GPU: the same answers as the CPU, and how fast.
gpu-check mdl="target/release/mdl" *arguments="":
    python3 benches/gpu_check.py {{mdl}} {{arguments}}

# Accept or reject changed snapshots.
review:
    cargo insta review

# Fuzz every target for a minute each (needs cargo-fuzz).
fuzz seconds="60":
    bash fuzz/run {{seconds}}

# Dependencies: licenses, advisories, sources (needs cargo-deny).
deny:
    cargo deny check

# The library's documentation.
doc:
    cargo doc --workspace --no-deps --open
