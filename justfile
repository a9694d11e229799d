# The daily commands.

# Format, lint, test: what the gate runs.
check:
    bash .ci/run

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
