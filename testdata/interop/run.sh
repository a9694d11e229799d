#!/bin/sh
# Runs the interoperability tests with every other reader there is. WORK keeps what is built.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-$(mktemp -d)}

[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet gguf
cargo build --quiet --manifest-path "$here/gguf-rs/Cargo.toml" --target-dir "$work/gguf-rs"

MDL_REQUIRE_PYTHON=1 MDL_PYTHON="$work/venv/bin/python" MDL_GGUF_RS="$work/gguf-rs/debug/read-with-gguf-rs" \
    cargo test --manifest-path "$here/../../Cargo.toml" --test formats interop
