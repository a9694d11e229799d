// Streams, events, captures and graphs. Work runs in the order of the calls, whatever its stream.

#include "driver.h"

using namespace standin;

namespace {

// The legacy stream by its two names, and the one that each thread has.
bool is_legacy(Handle stream) { return reinterpret_cast<uintptr_t>(stream) <= 1; }
bool is_of_thread(Handle stream) { return reinterpret_cast<uintptr_t>(stream) == 2; }

// A stream of the current context that was created; null for the others.
Result find(Handle handle, Stream **out) {
    *out = nullptr;
    if (is_legacy(handle) || is_of_thread(handle)) return OK;
    *out = state().streams.find(handle);
    return *out && (*out)->context == current() ? OK : INVALID_HANDLE;
}

Result find(Handle handle, Event **out) {
    *out = state().events.find(handle);
    return *out && (*out)->context == current() ? OK : INVALID_HANDLE;
}

// Blocking streams that are captured would have to wait for the legacy stream.
Result use_legacy() {
    for (auto &s : state().streams.all)
        if (s.second.capture && s.second.blocking) {
            s.second.capture->invalid = true;
            return mistake(CAPTURE_IMPLICIT, "the legacy stream is used while a blocking stream is captured");
        }
    return OK;
}

// One piece of work, now. What it answers stays.
Result perform(const Work &work) {
    State &s = state();
    if (!work.line.empty()) log("%s", work.line.c_str());
    Result code = work.run();
    if (code != OK) s.stuck = code;
    return code;
}

Result invalidate(Stream *stream, Result code) {
    stream->capture->invalid = true;
    return mistake(code, "the stream is captured");
}

void merge(Clock &into, const Clock &from) {
    for (auto &entry : from) into[entry.first] = std::max(into[entry.first], entry.second);
}

// Whether all work of the capture's streams is known to the one where it began.
bool joined(const Capture *capture) {
    const Clock &seen = state().streams.find(capture->origin)->seen;
    for (auto &s : state().streams.all) {
        if (s.second.capture.get() != capture || s.first == capture->origin) continue;
        auto known = seen.find(s.first);
        if (s.second.works > (known == seen.end() ? 0 : known->second)) return false;
    }
    return true;
}

void end(Capture *capture) {
    capture->ended = true;
    for (auto &s : state().streams.all) {
        if (s.second.capture.get() != capture) continue;
        s.second.capture.reset();
        s.second.works = 0;
        s.second.seen.clear();
    }
}

Result create(const char *function, Handle *out, unsigned flags) {
    return call(function, CONTEXT, [=] {
        if (!out || flags > 1) return INVALID_VALUE;
        Stream stream{};
        stream.context = current();
        stream.blocking = flags == 0;
        *out = state().streams.add(std::move(stream));
        return OK;
    });
}

Result elapsed(const char *function, float *out, Handle start, Handle stop) {
    return call(function, CONTEXT, [=]() -> Result {
        Event *a, *b;
        if (!out) return INVALID_VALUE;
        if (find(start, &a) || find(stop, &b)) return INVALID_HANDLE;
        if (a->capture || b->capture) return CAPTURED_EVENT;
        if (!a->timed || !b->timed || !a->recorded || !b->recorded) return INVALID_HANDLE;
        if (a->pending || b->pending) return NOT_READY;
        *out = std::chrono::duration<float, std::milli>(b->time - a->time).count();
        return OK;
    });
}

}  // namespace

namespace standin {

Result submit(Handle handle, Work work) {
    Stream *stream;
    if (Result code = find(handle, &stream)) return code;
    if (is_legacy(handle))
        if (Result code = use_legacy()) return code;
    if (stream && stream->capture) {
        if (stream->capture->invalid) return CAPTURE_INVALIDATED;
        if (!work.line.empty()) log("captured %s", work.line.c_str());
        stream->capture->works.push_back(std::move(work));
        stream->works++;
        return OK;
    }
    if (!state().settings.lazy) return perform(work);
    state().waiting.push_back(std::move(work));
    return OK;
}

Result synchronous(Work work) {
    if (Result code = use_legacy()) return code;
    if (Result code = drain()) return code;
    return perform(work);
}

Result drain() {
    std::vector<Work> works;
    works.swap(state().waiting);
    for (const Work &work : works)
        if (Result code = perform(work)) return code;
    return OK;
}

Result forbidden() {
    for (auto &s : state().streams.all) {
        Capture *capture = s.second.capture.get();
        if (!capture) continue;
        if (capture->mode == 0 || (capture->mode == 1 && capture->thread == std::this_thread::get_id())) {
            capture->invalid = true;
            return mistake(CAPTURE_UNSUPPORTED, "not while a stream is captured");
        }
    }
    return OK;
}

Result capture_forbids(Handle handle) {
    Stream *stream;
    if (Result code = find(handle, &stream)) return code;
    return stream && stream->capture ? invalidate(stream, CAPTURE_UNSUPPORTED) : Result(OK);
}

}  // namespace standin

API Result cuStreamCreate(Handle *out, unsigned flags) { return create("cuStreamCreate", out, flags); }
API Result cuStreamCreateWithPriority(Handle *out, unsigned flags, int) {
    return create("cuStreamCreateWithPriority", out, flags);
}

API Result cuStreamDestroy_v2(Handle handle) {
    return call("cuStreamDestroy_v2", CONTEXT, [=] {
        Stream *stream;
        if (find(handle, &stream) || !stream) return INVALID_HANDLE;
        if (stream->capture) stream->capture->invalid = true;
        state().streams.remove(handle);
        return OK;
    });
}

API Result cuStreamSynchronize(Handle handle) {
    return call("cuStreamSynchronize", CONTEXT, [=]() -> Result {
        if (Result code = capture_forbids(handle)) return code;
        if (Result code = forbidden()) return code;
        log("wait");
        return drain();
    });
}

// With work that waits: not ready, but it is the next time.
API Result cuStreamQuery(Handle handle) {
    return call("cuStreamQuery", CONTEXT, [=]() -> Result {
        if (Result code = capture_forbids(handle)) return code;
        if (Result code = forbidden()) return code;
        bool waits = !state().waiting.empty();
        if (Result code = drain()) return code;
        return waits ? NOT_READY : OK;
    });
}

API Result cuEventCreate(Handle *out, unsigned flags) {
    return call("cuEventCreate", CONTEXT, [=] {
        if (!out || flags > 7) return INVALID_VALUE;
        Event event{};
        event.context = current();
        event.timed = !(flags & 2);
        *out = state().events.add(std::move(event));
        return OK;
    });
}

API Result cuEventRecord(Handle handle, Handle on) {
    return call("cuEventRecord", CONTEXT, [=]() -> Result {
        Event *event;
        Stream *stream;
        if (find(handle, &event) || find(on, &stream)) return INVALID_HANDLE;
        if (stream && stream->capture) {
            event->capture = stream->capture;
            event->seen = stream->seen;
            event->seen[on] = stream->works;
            return stream->capture->invalid ? CAPTURE_INVALIDATED : OK;
        }
        event->capture.reset();
        event->recorded = true;
        event->pending++;
        return submit(on, {"", [=] {
                               if (Event *then = state().events.find(handle)) {
                                   then->pending--;
                                   then->time = std::chrono::steady_clock::now();
                               }
                               return Result(OK);
                           }});
    });
}

API Result cuStreamWaitEvent(Handle on, Handle handle, unsigned) {
    return call("cuStreamWaitEvent", CONTEXT, [=]() -> Result {
        Event *event;
        Stream *stream;
        if (find(on, &stream)) return INVALID_HANDLE;
        // An event of another context is one to wait for too.
        event = state().events.find(handle);
        if (!event) return INVALID_HANDLE;
        Capture *capture = stream ? stream->capture.get() : nullptr;
        if (!event->capture) {
            if (!capture || !event->recorded) return OK;
            capture->invalid = true;
            return mistake(CAPTURE_ISOLATION, "a captured stream would wait for work before the capture");
        }
        if (event->capture->ended) return CAPTURED_EVENT;
        if (!stream) return mistake(CAPTURE_IMPLICIT, "the legacy stream would wait for a capture");
        if (capture && capture != event->capture.get()) {
            capture->invalid = event->capture->invalid = true;
            return CAPTURE_MERGE;
        }
        stream->capture = event->capture;
        merge(stream->seen, event->seen);
        return OK;
    });
}

API Result cuEventSynchronize(Handle handle) {
    return call("cuEventSynchronize", CONTEXT, [=]() -> Result {
        Event *event;
        if (find(handle, &event)) return INVALID_HANDLE;
        if (event->capture) {
            event->capture->invalid = true;
            return CAPTURED_EVENT;
        }
        if (Result code = forbidden()) return code;
        log("wait");
        return drain();
    });
}

API Result cuEventQuery(Handle handle) {
    return call("cuEventQuery", CONTEXT, [=]() -> Result {
        Event *event;
        if (find(handle, &event)) return INVALID_HANDLE;
        if (event->capture) {
            event->capture->invalid = true;
            return CAPTURED_EVENT;
        }
        if (Result code = forbidden()) return code;
        bool waits = event->pending;
        if (Result code = waits ? drain() : OK) return code;
        return waits ? NOT_READY : OK;
    });
}

API Result cuEventElapsedTime(float *out, Handle a, Handle b) { return elapsed("cuEventElapsedTime", out, a, b); }
API Result cuEventElapsedTime_v2(float *out, Handle a, Handle b) { return elapsed("cuEventElapsedTime_v2", out, a, b); }

API Result cuEventDestroy_v2(Handle handle) {
    return call("cuEventDestroy_v2", CONTEXT, [=] {
        Event *event;
        if (find(handle, &event)) return INVALID_HANDLE;
        state().events.remove(handle);
        return OK;
    });
}

API Result cuStreamBeginCapture_v2(Handle handle, int mode) {
    return call("cuStreamBeginCapture_v2", CONTEXT, [=]() -> Result {
        Stream *stream;
        if (find(handle, &stream)) return INVALID_HANDLE;
        if (mode < 0 || mode > 2) return INVALID_VALUE;
        if (is_of_thread(handle)) return mistake(NOT_SUPPORTED, "a capture of the stream of a thread");
        if (!stream) return mistake(CAPTURE_UNSUPPORTED, "a capture of the legacy stream");
        if (stream->capture) return ILLEGAL_STATE;
        stream->capture = std::make_shared<Capture>();
        stream->capture->origin = handle;
        stream->capture->mode = mode;
        stream->capture->thread = std::this_thread::get_id();
        log("capture begin");
        return OK;
    });
}

API Result cuStreamEndCapture(Handle handle, Handle *out) {
    return call("cuStreamEndCapture", CONTEXT, [=]() -> Result {
        Stream *stream;
        if (!out) return INVALID_VALUE;
        if (find(handle, &stream)) return INVALID_HANDLE;
        *out = nullptr;
        if (!stream || !stream->capture) return ILLEGAL_STATE;
        std::shared_ptr<Capture> capture = stream->capture;
        if (capture->mode != 2 && capture->thread != std::this_thread::get_id()) return CAPTURE_WRONG_THREAD;
        Result code = capture->invalid              ? CAPTURE_INVALIDATED
                      : capture->origin != handle   ? CAPTURE_UNMATCHED
                      : !joined(capture.get())      ? CAPTURE_UNJOINED
                                                    : OK;
        end(capture.get());
        if (code) return code;
        log("capture end %zu", capture->works.size());
        auto works = std::make_shared<const std::vector<Work>>(std::move(capture->works));
        *out = state().graphs.add({current(), std::move(works)});
        return OK;
    });
}

API Result cuStreamIsCapturing(Handle handle, int *out) {
    return call("cuStreamIsCapturing", CONTEXT, [=]() -> Result {
        Stream *stream;
        if (!out) return INVALID_VALUE;
        if (find(handle, &stream)) return INVALID_HANDLE;
        *out = !stream || !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
        return OK;
    });
}

API Result cuGraphInstantiateWithFlags(Handle *out, Handle graph, unsigned long long flags) {
    return call("cuGraphInstantiateWithFlags", CONTEXT, [=] {
        Graph *g = state().graphs.find(graph);
        if (!out || flags > 15) return INVALID_VALUE;
        if (!g || g->context != current()) return INVALID_HANDLE;
        log("graph instantiate %zu", g->works->size());
        *out = state().executables.add(*g);
        return OK;
    });
}

API Result cuGraphUpload(Handle executable, Handle on) {
    return call("cuGraphUpload", CONTEXT, [=] {
        Stream *stream;
        return !state().executables.find(executable) || find(on, &stream) ? INVALID_HANDLE : OK;
    });
}

API Result cuGraphLaunch(Handle executable, Handle on) {
    return call("cuGraphLaunch", CONTEXT, [=]() -> Result {
        Graph *g = state().executables.find(executable);
        if (!g || g->context != current()) return INVALID_HANDLE;
        return submit(on, {"graph launch " + std::to_string(g->works->size()), [works = g->works] {
                               for (const Work &work : *works)
                                   if (Result code = perform(work)) return code;
                               return Result(OK);
                           }});
    });
}

API Result cuGraphExecDestroy(Handle executable) {
    return call("cuGraphExecDestroy", CONTEXT, [=] { return state().executables.remove(executable) ? OK : INVALID_HANDLE; });
}

API Result cuGraphDestroy(Handle graph) {
    return call("cuGraphDestroy", CONTEXT, [=] { return state().graphs.remove(graph) ? OK : INVALID_HANDLE; });
}

#define SAME(old_name, name, ...) API Result old_name(__VA_ARGS__) __attribute__((alias(#name)))
SAME(cuStreamDestroy, cuStreamDestroy_v2, Handle);
SAME(cuEventDestroy, cuEventDestroy_v2, Handle);
