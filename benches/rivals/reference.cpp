// llama.cpp's own forward pass, scripted:
//   reference greedy MODEL N IDS      N greedy ids; an end-of-generation token does not end it
//   reference logits MODEL IDS OUT    float32 [tokens, vocabulary], row i after token i
// IDS are files of decimal numbers. Two threads, F16 KV cache: llama.cpp's defaults.
#include "llama.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

static void die(const char * what) {
    fprintf(stderr, "reference: %s\n", what);
    exit(1);
}

static std::vector<llama_token> read_ids(const char * path) {
    std::ifstream in(path);
    std::vector<llama_token> ids;
    for (llama_token id; in >> id;) ids.push_back(id);
    if (ids.empty()) die("no ids");
    return ids;
}

// Adds tokens at position `at`; logits of every token, or of the last alone.
static void feed(llama_context * context, const llama_token * ids, int count, int at, bool every) {
    llama_batch batch = llama_batch_init(count, 0, 1);
    batch.n_tokens = count;
    for (int i = 0; i < count; i++) {
        batch.token[i] = ids[i];
        batch.pos[i] = at + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = every || i == count - 1;
    }
    if (llama_decode(context, batch)) die("llama_decode failed");
    llama_batch_free(batch);
}

int main(int argc, char ** argv) {
    if (argc != 5) die("see the top of reference.cpp");
    const bool greedy = std::string(argv[1]) == "greedy";
    const int more = greedy ? atoi(argv[3]) : 0;
    std::vector<llama_token> ids = read_ids(greedy ? argv[4] : argv[3]);
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
    }, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[2], llama_model_default_params());
    if (!model) die("cannot load the model");
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = ids.size() + more;
    params.n_ubatch = std::min<uint32_t>(512, params.n_ctx);
    params.n_threads = params.n_threads_batch = 2;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) die("cannot make a context");

    FILE * out = greedy ? nullptr : fopen(argv[4], "wb");
    if (!greedy && !out) die("cannot write");
    const int count = ids.size();
    for (int at = 0; at < count; at += params.n_ubatch) {
        const int now = std::min<int>(params.n_ubatch, count - at);
        feed(context, &ids[at], now, at, !greedy);
        for (int i = 0; out && i < now; i++) fwrite(llama_get_logits_ith(context, i), 4, vocabulary, out);
    }
    for (int i = 0; i < more; i++) {
        const float * logits = llama_get_logits_ith(context, -1);
        const llama_token next = std::max_element(logits, logits + vocabulary) - logits;
        printf(i ? " %d" : "%d", next);
        if (i + 1 < more) feed(context, &next, 1, count + i, false);
    }
    if (greedy) puts("");
    if (out) fclose(out);
}
