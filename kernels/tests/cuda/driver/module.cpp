// Modules: images of machine code or PTX, of which the stand-in reads the names of kernels and what they are made for.

#include "driver.h"

#include <cctype>
#include <cstdlib>
#include <cstring>

#include <elf.h>

using namespace standin;

namespace {

constexpr int EM_OF_CUDA = 190;

struct Image {
    const char *kind;
    Module module;
    // The architecture only, not one that is greater.
    bool exact;
};

bool of_word(char c) { return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%'; }

// What follows `directive`, a word of its own, from `at` on; npos if it is not there.
size_t after(const std::string &text, const char *directive, size_t at) {
    size_t n = strlen(directive);
    for (; (at = text.find(directive, at)) != std::string::npos; at++)
        if (at + n < text.size() && isspace((unsigned char)text[at + n])) return text.find_first_not_of(" \t\r\n", at + n);
    return at;
}

Result read_ptx(const char *image, Image &out) {
    std::string text = image;
    size_t version = after(text, ".version", 0), target = after(text, ".target", 0);
    if (version == std::string::npos || target == std::string::npos || text.compare(target, 3, "sm_"))
        return mistake(INVALID_IMAGE, "neither PTX nor a cubin");
    const char *at = text.c_str() + version;
    char *end;
    long major = strtol(at, &end, 10), minor = *end == '.' ? strtol(end + 1, &end, 10) : 0;
    out.kind = "ptx";
    out.module.ptx_version = int(major * 10 + minor);
    out.module.architecture = int(strtol(text.c_str() + target + 3, &end, 10));
    out.exact = *end == 'a';
    for (size_t from = 0; (from = after(text, ".entry", from)) != std::string::npos;) {
        size_t to = from;
        while (to < text.size() && of_word(text[to])) to++;
        out.module.kernels.insert(text.substr(from, to - from));
        from = to;
    }
    return OK;
}

Result read_cubin(const char *image, Image &out) {
    auto header = reinterpret_cast<const Elf64_Ehdr *>(image);
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_machine != EM_OF_CUDA || !header->e_shoff)
        return mistake(INVALID_IMAGE, "an ELF file, but not of CUDA");
    out.kind = "cubin";
    out.exact = true;
    unsigned flags = header->e_flags;
    out.module.architecture = int(header->e_ident[EI_ABIVERSION] >= 8 ? flags >> 8 & 0xff : flags & 0xff);
    auto sections = reinterpret_cast<const Elf64_Shdr *>(image + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        auto symbols = reinterpret_cast<const Elf64_Sym *>(image + sections[i].sh_offset);
        const char *names = image + sections[sections[i].sh_link].sh_offset;
        for (size_t n = 0; n < sections[i].sh_size / sizeof *symbols; n++)
            if (ELF64_ST_TYPE(symbols[n].st_info) == STT_FUNC && ELF64_ST_BIND(symbols[n].st_info) == STB_GLOBAL)
                out.module.kernels.insert(names + symbols[n].st_name);
    }
    return OK;
}

// The PTX that a driver knows: each version of CUDA brings one.
int newest_ptx(int driver) {
    static const int OF_12[] = {80, 81, 82, 83, 84, 85, 85, 86, 87, 88};
    int major = driver / 1000, minor = std::min(driver % 1000 / 10, 9);
    return major == 12 ? OF_12[minor] : major == 11 ? 70 + minor : major * 10 - 40 + minor;
}

Result suits(const Image &image) {
    const Settings &s = state().settings;
    int made_for = image.module.architecture, have = s.major * 10 + s.minor;
    bool ptx = image.module.ptx_version != 0;
    if (ptx && image.module.ptx_version > newest_ptx(s.version))
        return mistake(UNSUPPORTED_PTX_VERSION, "PTX %d is newer than the driver", image.module.ptx_version);
    // Machine code runs on its generation; PTX on all that are not older, but for what is of one generation only.
    bool good = !ptx        ? made_for / 10 == have / 10 && made_for <= have
                : image.exact ? made_for == have
                              : made_for <= have;
    if (good) return OK;
    return mistake(NO_BINARY_FOR_GPU, "%s for %d, a device of %d", image.kind, made_for, have);
}

Result load(const char *function, Handle *out, const void *image) {
    return call(function, UNCAPTURED, [=]() -> Result {
        if (!out || !image) return INVALID_VALUE;
        Image read{};
        auto bytes = static_cast<const char *>(image);
        bool elf = memcmp(bytes, ELFMAG, SELFMAG) == 0;
        if (Result code = elf ? read_cubin(bytes, read) : read_ptx(bytes, read)) return code;
        if (Result code = suits(read)) return code;
        read.module.context = current();
        log("module load %s %zu kernels", read.kind, read.module.kernels.size());
        *out = state().modules.add(std::move(read.module));
        return OK;
    });
}

}  // namespace

API Result cuModuleLoadData(Handle *out, const void *image) { return load("cuModuleLoadData", out, image); }
API Result cuModuleLoadDataEx(Handle *out, const void *image, unsigned, int *, void **) {
    return load("cuModuleLoadDataEx", out, image);
}

API Result cuModuleUnload(Handle handle) {
    return call("cuModuleUnload", UNCAPTURED, [=]() -> Result {
        State &s = state();
        Module *module = s.modules.find(handle);
        if (!module || module->context != current()) return INVALID_HANDLE;
        if (Result code = drain()) return code;
        s.functions.remove_if([&](Function &f) { return f.module == handle; });
        s.modules.remove(handle);
        return OK;
    });
}

API Result cuModuleGetFunction(Handle *out, Handle handle, const char *name) {
    return call("cuModuleGetFunction", CONTEXT, [=]() -> Result {
        State &s = state();
        if (!out || !name) return INVALID_VALUE;
        Module *module = s.modules.find(handle);
        if (!module || module->context != current()) return INVALID_HANDLE;
        if (!module->kernels.count(name)) return NOT_FOUND;
        for (auto &f : s.functions.all)
            if (f.second.module == handle && f.second.name == name) return *out = f.first, OK;
        auto kernel = s.kernels.find(name);
        if (kernel == s.kernels.end()) return mistake(NOT_FOUND, "%s is in the image, but not in kernels/cuda", name);
        const Kernel &k = kernel->second;
        *out = s.functions.add({handle, name, &k, (48 << 10) - k.shared});
        return OK;
    });
}
